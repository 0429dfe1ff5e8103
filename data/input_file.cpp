#include "data/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "data/error.h"

namespace gsa::data {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;  // of the compressed file at once

/// The file as it lies on the disk.
class PlainFile final : public InputFile {
 public:
  explicit PlainFile(std::filesystem::path path)
      : path_(std::move(path)), file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_ < 0) {
      throw DataError(fmt::format("{}: cannot open: {}", path_.string(), std::strerror(errno)));
    }
    ::posix_fadvise(file_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~PlainFile() override { ::close(file_); }

  size_t read(std::span<char> out) override {
    ssize_t count = 0;
    do {
      count = ::read(file_, out.data(), out.size());
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
      throw DataError(fmt::format("{}: cannot read: {}", path_.string(), std::strerror(errno)));
    }
    bytes_read_ += count;
    return static_cast<size_t>(count);
  }

  [[nodiscard]] int64_t bytes_read() const override { return bytes_read_; }

 private:
  std::filesystem::path path_;
  int file_;
  int64_t bytes_read_ = 0;
};

/// The part that gz and zst share: a buffer of compressed bytes, refilled when it is used up.
class CompressedFile : public InputFile {
 public:
  explicit CompressedFile(const std::filesystem::path& path) : file_(path), buffer_(kReadBytes) {}
  [[nodiscard]] int64_t bytes_read() const override { return file_.bytes_read(); }

 protected:
  /// Compressed bytes not used yet; empty at the end of the file.
  std::span<char> pending() {
    if (pending_.empty()) pending_ = std::span(buffer_).first(file_.read(buffer_));
    return pending_;
  }
  void used(size_t bytes) { pending_ = pending_.subspan(bytes); }
  /// Reports damage, but hands out first what was good: the next read() throws.
  void damaged(std::string how) { damage_ = std::move(how); }
  void throw_if_damaged() const {
    if (!damage_.empty()) throw TornInput(damage_);
  }

 private:
  std::string damage_;
  PlainFile file_;
  std::vector<char> buffer_;
  std::span<char> pending_;
};

class ZstdFile final : public CompressedFile {
 public:
  explicit ZstdFile(const std::filesystem::path& path)
      : CompressedFile(path), context_(ZSTD_createDCtx()) {
    if (!context_) throw std::bad_alloc();
    // Files packed with `zstd --long` need a window beyond the default of 128 MiB.
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  }

  size_t read(std::span<char> out) override {
    throw_if_damaged();
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    while (to.pos == 0) {
      const auto from = pending();
      if (from.empty() && !inside_frame_) return 0;
      ZSTD_inBuffer in{from.data(), from.size(), 0};
      const size_t left = ZSTD_decompressStream(context_.get(), &to, &in);
      if (ZSTD_isError(left)) {
        damaged(fmt::format("damaged zstd data: {}", ZSTD_getErrorName(left)));
        if (to.pos > 0) break;
        throw_if_damaged();
      }
      used(in.pos);
      inside_frame_ = left != 0;
      if (from.empty() && to.pos == 0) {
        throw TornInput("torn zstd data: the file ends in the middle of a frame");
      }
    }
    return to.pos;
  }

 private:
  static constexpr int kMaxWindowLog = 30;
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool inside_frame_ = true;  // an empty file is a torn one
};

class GzipFile final : public CompressedFile {
 public:
  explicit GzipFile(const std::filesystem::path& path) : CompressedFile(path) {
    constexpr int kGzipOnly = 16;
    if (::inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipFile() override { ::inflateEnd(&stream_); }

  size_t read(std::span<char> out) override {
    throw_if_damaged();
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size()) {
      const auto from = pending();
      if (from.empty()) {
        if (!inside_member_) return 0;
        throw TornInput("torn gzip data: the file ends in the middle of a member");
      }
      if (!inside_member_) ::inflateReset(&stream_);
      stream_.next_in = reinterpret_cast<Bytef*>(from.data());
      stream_.avail_in = static_cast<uInt>(from.size());
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      used(from.size() - stream_.avail_in);
      inside_member_ = result != Z_STREAM_END;
      if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
        damaged(fmt::format("damaged gzip data: {}",
                            stream_.msg != nullptr ? stream_.msg : "unknown cause"));
        if (stream_.avail_out < out.size()) break;
        throw_if_damaged();
      }
    }
    return out.size() - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool inside_member_ = true;  // an empty file is a torn one
};

bool ends_with(const std::filesystem::path& path, std::string_view ending) {
  return path.filename().string().ends_with(ending);
}

}  // namespace

bool is_input_name(const std::filesystem::path& path) {
  return ends_with(path, ".jsonl") || ends_with(path, ".jsonl.gz") || ends_with(path, ".jsonl.zst");
}

std::unique_ptr<InputFile> open_input(const std::filesystem::path& path) {
  if (ends_with(path, ".zst")) return std::make_unique<ZstdFile>(path);
  if (ends_with(path, ".gz")) return std::make_unique<GzipFile>(path);
  return std::make_unique<PlainFile>(path);
}

}  // namespace gsa::data
