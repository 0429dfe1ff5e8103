// HDF5's identifiers as objects, and its errors as exceptions. For the .cpp files of this folder
// only: hdf5.h goes no further.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace gsa {

// Owns an identifier and closes it. Closing a file that was written can fail: see close().
class Hdf5Id {
 public:
  using Closer = herr_t (*)(hid_t);
  Hdf5Id() = default;
  Hdf5Id(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  ~Hdf5Id() { close(); }
  Hdf5Id(Hdf5Id&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), closer_(other.closer_) {}
  Hdf5Id& operator=(Hdf5Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  operator hid_t() const { return id_; }  // NOLINT: it is passed to HDF5's functions

  // Closes now; false if HDF5 could not.
  bool close() { return id_ < 0 || closer_(std::exchange(id_, H5I_INVALID_HID)) >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Closer closer_ = nullptr;
};

// Keeps HDF5 from printing its errors, on this thread, while it lives: they go into exceptions.
class QuietHdf5 {
 public:
  QuietHdf5();
  ~QuietHdf5();
  QuietHdf5(const QuietHdf5&) = delete;
  QuietHdf5& operator=(const QuietHdf5&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// Throws CheckpointError "FILE: WHAT: HDF5's reason" if an answer of HDF5 is negative.
void check_hdf5(long long answer, const std::string& file, const std::string& what);

// The identifier, checked and owned.
Hdf5Id owned(hid_t id, Hdf5Id::Closer closer, const std::string& file, const std::string& what);

// A new file in memory that can be read by HDF5 1.10 and later. `name` is for messages.
Hdf5Id create_in_memory(const std::string& name);
// The bytes of such a file.
std::vector<std::byte> image_of(const Hdf5Id& file, const std::string& name);

// Opens a file of this program's to write into it.
Hdf5Id open_hdf5(const std::filesystem::path& path);

// Where a dataset's elements lie in its file; 0 if it has none.
uint64_t offset_of(const Hdf5Id& dataset);

void write_attribute(hid_t object, const char* name, long long value, const std::string& file);
void write_attribute(hid_t object, const char* name, const std::string& value,
                     const std::string& file);

}  // namespace gsa
