#include "kernels/device.h"

#include <cblas.h>
#include <omp.h>
#include <sys/sysinfo.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels/cuda/runtime.h"

namespace gsa {
namespace {

constexpr size_t alignment = 256;

size_t round_up(size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

double now_ms() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

}  // namespace

int cuda_device_count() {
  return cuda::device_count();
}

DeviceInfo device_info(Device device, int ordinal) {
  if (device == Device::cuda) {
    return cuda::device_info(ordinal);
  }
  struct sysinfo memory {};
  sysinfo(&memory);
  DeviceInfo info;
  info.name = "CPU, " + std::to_string(omp_get_max_threads()) + " thread" +
              (omp_get_max_threads() == 1 ? "" : "s");
  info.memory_bytes = size_t(memory.totalram) * memory.mem_unit;
  info.free_bytes = size_t(memory.freeram) * memory.mem_unit;
  return info;
}

void set_cpu_threads(int threads) {
  omp_set_num_threads(threads);
  openblas_set_num_threads(threads);
}

void use_device(Device device, int ordinal) {
  if (device == Device::cuda) {
    cuda::use_device(ordinal);
  }
}

Buffer::Buffer(Device device, size_t bytes, MemoryKind kind)
    : bytes_(bytes), device_(device), kind_(kind) {
  if (bytes == 0) {
    return;
  }
  if (device == Device::cuda) {
    data_ = cuda::allocate(bytes, kind);
    return;
  }
  if (bytes <= std::numeric_limits<size_t>::max() - alignment) {  // else rounding up overflows
    data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, round_up(bytes)));
  }
  if (data_ == nullptr) {
    const DeviceInfo host = device_info(Device::cpu);
    throw OutOfMemory("the host cannot give " + std::to_string(bytes) +
                      " bytes of memory: it has " + std::to_string(host.memory_bytes) +
                      ", of which " + std::to_string(host.free_bytes) + " are free");
  }
}

Buffer::~Buffer() {
  if (data_ == nullptr) {
    return;
  }
  if (device_ == Device::cuda) {
    cuda::release(data_, kind_);
  } else {
    std::free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
  return *this;
}

Tensor Buffer::tensor(DType dtype, Shape shape, size_t byte_offset) const {
  const size_t end = byte_offset + static_cast<size_t>(shape.count()) * size_of(dtype);
  if (end > bytes_) {
    throw std::invalid_argument("a tensor " + shape.text() + " ends at byte " +
                                std::to_string(end) + " of a buffer of " + std::to_string(bytes_));
  }
  // Pinned memory belongs to CUDA but is read and written by the host.
  const Device device = kind_ == MemoryKind::pinned ? Device::cpu : device_;
  return {data_ + byte_offset, dtype, device, shape};
}

Stream::Stream(Device device, Priority priority) : device_(device) {
  if (device == Device::cuda) {
    native_ = cuda::create_stream(priority);
  }
}

Stream Stream::planning(Device device) {
  return {device, Planning{}};
}

Stream::~Stream() {
  if (native_ != nullptr) {
    cuda::destroy_stream(native_);
  }
}

Stream::Stream(Stream&& other) noexcept
    : device_(other.device_),
      planning_(other.planning_),
      native_(std::exchange(other.native_, nullptr)),
      scratch_(other.scratch_),
      observer_(other.observer_) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(planning_, other.planning_);
  std::swap(native_, other.native_);
  std::swap(scratch_, other.scratch_);
  std::swap(observer_, other.observer_);
  return *this;
}

void Stream::synchronize() {
  if (native_ != nullptr) {
    cuda::synchronize_stream(native_);
  }
}

void Stream::wait(const Event& event) {
  if (native_ != nullptr) {
    cuda::stream_wait(native_, event.native());
  }
}

Event::Event(Device device) : device_(device) {
  if (device == Device::cuda) {
    native_ = cuda::create_event();
  }
}

Event::~Event() {
  if (native_ != nullptr) {
    cuda::destroy_event(native_);
  }
}

Event::Event(Event&& other) noexcept
    : device_(other.device_),
      native_(std::exchange(other.native_, nullptr)),
      time_ms_(other.time_ms_) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(native_, other.native_);
  std::swap(time_ms_, other.time_ms_);
  return *this;
}

void Event::record(Stream& stream) {
  if (native_ != nullptr) {
    cuda::record_event(native_, stream.native());
  } else {
    time_ms_ = now_ms();
  }
}

void Event::synchronize() const {
  if (native_ != nullptr) {
    cuda::synchronize_event(native_);
  }
}

double Event::milliseconds_since(const Event& start) const {
  return native_ != nullptr ? cuda::milliseconds_between(start.native_, native_)
                            : time_ms_ - start.time_ms_;
}

void copy(Stream& stream, ConstTensor source, Tensor target) {
  if (source.dtype() != target.dtype() || source.count() != target.count() ||
      !source.is_contiguous() || !target.is_contiguous()) {
    throw std::invalid_argument("a copy needs contiguous tensors of one dtype and count: " +
                                source.shape().text() + " to " + target.shape().text());
  }
  if (stream.is_planning() || source.count() == 0) {
    return;
  }
  if (stream.device() == Device::cuda) {
    cuda::copy(stream.native(), source.data(), target.data(), source.bytes());
  } else {
    std::memcpy(target.data(), source.data(), source.bytes());
  }
}

void fill_zero(Stream& stream, Tensor target) {
  if (!target.is_contiguous()) {
    throw std::invalid_argument("fill_zero needs a contiguous tensor");
  }
  if (stream.is_planning() || target.count() == 0) {
    return;
  }
  if (stream.device() == Device::cuda) {
    cuda::fill_zero(stream.native(), target.data(), target.bytes());
  } else {
    std::memset(target.data(), 0, target.bytes());
  }
}

}  // namespace gsa
