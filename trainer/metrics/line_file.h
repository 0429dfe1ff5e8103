// A file to which whole lines are appended, by one writer at a time.
#pragma once

#include <filesystem>
#include <string>

namespace gsa {

class LineFile {
 public:
  // Opens or creates the file. Throws std::system_error with the path.
  explicit LineFile(std::filesystem::path path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  // Appends the line and a newline, whole or not at all, and hands them to the operating system, so
  // that they outlive a killed process. Throws std::system_error where that fails (such as: no
  // space left on device); the line is kept, and written ahead of the next one.
  void append(const std::string& line);

  // Writes what was kept, and waits until all is on the disk; throws likewise.
  void sync();

 private:
  void flush();

  std::filesystem::path path_;
  std::string pending_;
  int file_ = -1;
};

// Replaces a file's content, whole or not at all: readers and a crash see the old or the new one.
// `durable`: on the disk when it returns. Throws std::system_error with the path.
void replace_file(const std::filesystem::path& path, const std::string& content, bool durable);

}  // namespace gsa
