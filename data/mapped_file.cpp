#include "data/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "data/error.h"

namespace gsa::data {
namespace {

/// Gives advice on whole pages: those that `bytes` touch.
void advise_pages(std::span<const std::byte> bytes, int advice) {
  if (bytes.empty()) return;
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t before = reinterpret_cast<uintptr_t>(bytes.data()) % page;
  // What is read is the same whether the kernel takes the advice or not.
  ::madvise(const_cast<std::byte*>(bytes.data()) - before, bytes.size() + before, advice);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    throw DataError(fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
  }
  struct stat status {};
  void* address = nullptr;
  const bool known = ::fstat(file, &status) == 0;
  const auto size = known ? static_cast<size_t>(status.st_size) : 0;
  if (size > 0) address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  const int cause = errno;
  ::close(file);
  if (!known || address == MAP_FAILED) {
    throw DataError(
        fmt::format("{}: cannot map into memory: {}", path.string(), std::strerror(cause)));
  }
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

void advise(std::span<const std::byte> bytes, Access access) {
  advise_pages(bytes, access == Access::random ? MADV_RANDOM : MADV_NORMAL);
}

void start_reading(std::span<const std::byte> bytes) {
  advise_pages(bytes, MADV_WILLNEED);
}

}  // namespace gsa::data
