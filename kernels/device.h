// Device memory, streams and events: the same types for the CPU and for CUDA.
//
// Work is queued on a Stream and runs in order. On the CPU it runs at once, in the calling thread;
// on CUDA it is asynchronous. A *planning* stream runs nothing: operations queued on it only count
// (floating-point operations, scratch memory), which is how a step is measured before it is run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/tensor.h"

namespace gsa {

namespace kernels {
struct Matmul;
}

// An error of the device or of its libraries: what was called, what it answered.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The device has not enough memory for what was asked: says how much, and how much there is.
class OutOfMemory : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

// What a device is, as far as a run wants to know.
struct DeviceInfo {
  std::string name;            // "NVIDIA H200", "CPU, 2 threads"
  size_t memory_bytes = 0;     // in all
  size_t free_bytes = 0;       // at the time of asking
  double peak_bf16_flops = 0;  // dense, per second; 0 if not known
};

// CUDA devices that this build and this machine can use; 0 without either.
int cuda_device_count();
// Throws DeviceError if there is no such device.
DeviceInfo device_info(Device device, int ordinal = 0);
// Threads that CPU kernels and matrix products of this process use from now on.
void set_cpu_threads(int threads);
// Makes `ordinal` the calling thread's CUDA device; nothing on the CPU.
void use_device(Device device, int ordinal);

enum class MemoryKind : uint8_t {
  device,  // the device's own memory
  pinned   // host memory that the device copies from and to without staging
};

// Owns memory: aligned to 256 bytes, not initialized. Throws OutOfMemory.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device device, size_t bytes, MemoryKind kind = MemoryKind::device);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  // A tensor over the buffer's start (or from `byte_offset`). Throws if it does not fit.
  Tensor tensor(DType dtype, Shape shape, size_t byte_offset = 0) const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  Device device_ = Device::cpu;
  MemoryKind kind_ = MemoryKind::device;
};

// Lends scratch memory to operations, last lent first returned. The step's arena implements it.
class ScratchMemory {
 public:
  virtual ~ScratchMemory() = default;
  virtual std::byte* lend(size_t bytes) = 0;  // aligned to 256 bytes
  virtual void give_back(size_t bytes) = 0;   // what was lent last
};

// Counts and times the operations queued on a stream, by phase ("gsa", "products", ...).
class OperationObserver {
 public:
  virtual ~OperationObserver() = default;
  // Of a matrix product, before `before`.
  virtual void product(const kernels::Matmul& /*product*/) {}
  virtual void before(const char* phase) = 0;
  virtual void after(const char* phase, double flops) = 0;
};

class Event;

// Which of the work that waits for a CUDA device goes first.
enum class Priority : uint8_t { normal, high };

class Stream {
 public:
  // A stream on the device; on CUDA, of the calling thread's current device.
  explicit Stream(Device device, Priority priority = Priority::normal);
  // A stream that counts and runs nothing.
  static Stream planning(Device device);
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;

  Device device() const { return device_; }
  bool is_planning() const { return planning_; }
  void* native() const { return native_; }  // cudaStream_t on CUDA, null on the CPU

  void synchronize();             // until everything queued has run
  void wait(const Event& event);  // later work waits for what `event` recorded

  void set_scratch(ScratchMemory* scratch) { scratch_ = scratch; }
  ScratchMemory* scratch() const { return scratch_; }
  void set_observer(OperationObserver* observer) { observer_ = observer; }
  OperationObserver* observer() const { return observer_; }

 private:
  struct Planning {};
  Stream(Device device, Planning /*tag*/) : device_(device), planning_(true) {}
  Device device_;
  bool planning_ = false;
  void* native_ = nullptr;
  ScratchMemory* scratch_ = nullptr;
  OperationObserver* observer_ = nullptr;
};

// A point in a stream's work. On the CPU it is a time.
class Event {
 public:
  explicit Event(Device device);
  ~Event();
  Event(Event&&) noexcept;
  Event& operator=(Event&&) noexcept;

  void record(Stream& stream);
  void synchronize() const;  // until the recorded point has been reached
  // Milliseconds from `start` to this event, both recorded and reached.
  double milliseconds_since(const Event& start) const;
  void* native() const { return native_; }

 private:
  Device device_;
  void* native_ = nullptr;
  double time_ms_ = 0;
};

// Queues a copy of `source` to `target`: same dtype and count, both contiguous, any two devices.
// Host memory of an asynchronous copy must stay alive until the stream has passed it.
void copy(Stream& stream, ConstTensor source, Tensor target);
// Queues filling with zero bytes; contiguous tensors.
void fill_zero(Stream& stream, Tensor target);

}  // namespace gsa
