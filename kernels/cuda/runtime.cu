#include "kernels/cuda/runtime.h"

#include <array>
#include <string_view>

#include "kernels/cuda/check.h"

namespace gsa::cuda {
namespace {

cudaStream_t stream_of(void* handle) {
  return static_cast<cudaStream_t>(handle);
}

cudaEvent_t event_of(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

// Dense bf16 rates by NVIDIA's data sheets; the first name that the device's name contains counts.
struct Peak {
  std::string_view name;
  double flops;
};
constexpr std::array peaks{Peak{"H100 PCIe", 756e12}, Peak{"H100 NVL", 835e12},
                           Peak{"H200 NVL", 835e12},  Peak{"H100", 989e12},
                           Peak{"H200", 989e12},      Peak{"A100", 312e12}};

double peak_of(std::string_view device_name) {
  for (const Peak& peak : peaks) {
    if (device_name.find(peak.name) != std::string_view::npos) {
      return peak.flops;
    }
  }
  return 0;
}

// Makes a device current for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    check(cudaSetDevice(ordinal), "cudaSetDevice");
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

void require_device(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw DeviceError("there is no CUDA device " + std::to_string(ordinal) + ": this machine has " +
                      std::to_string(count) +
                      "; start as many ranks a node as it has GPUs, or check CUDA_VISIBLE_DEVICES");
  }
}

std::string gibibytes(size_t bytes) {
  constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;
  std::string text = std::to_string(double(bytes) / gibibyte);
  constexpr size_t decimals = 2;
  text.resize(text.find('.') + 1 + decimals);
  return text + " GiB";
}

[[noreturn]] void throw_out_of_memory(size_t bytes, MemoryKind kind) {
  cudaGetLastError();  // the error has been taken note of: later calls are not to blame for it
  if (kind == MemoryKind::pinned) {
    throw OutOfMemory("the host has no " + gibibytes(bytes) + " of memory left to pin");
  }
  size_t free = 0;
  size_t total = 0;
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), "cudaGetDevice");
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  throw OutOfMemory("CUDA device " + std::to_string(ordinal) + " cannot give " + gibibytes(bytes) +
                    " of memory" + ": " + gibibytes(free) + " of " + gibibytes(total) +
                    " are free; use a smaller micro-batch or recompute, or end what else runs "
                    "on the device");
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver, or no device: an answer, not an error
    return 0;
  }
  return count;
}

DeviceInfo device_info(int ordinal) {
  require_device(ordinal);
  const CurrentDevice current(ordinal);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = static_cast<const char*>(properties.name);
  check(cudaMemGetInfo(&info.free_bytes, &info.memory_bytes), "cudaMemGetInfo");
  info.peak_bf16_flops = peak_of(info.name);
  return info;
}

void use_device(int ordinal) {
  require_device(ordinal);
  check(cudaSetDevice(ordinal), "cudaSetDevice");
}

std::byte* allocate(size_t bytes, MemoryKind kind) {
  void* data = nullptr;
  const bool pinned = kind == MemoryKind::pinned;
  const cudaError_t status =
      pinned ? cudaHostAlloc(&data, bytes, cudaHostAllocPortable) : cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    throw_out_of_memory(bytes, kind);
  }
  check(status, pinned ? "cudaHostAlloc" : "cudaMalloc");
  return static_cast<std::byte*>(data);
}

void release(std::byte* data, MemoryKind kind) noexcept {
  // Nothing can be done about a failure here; one that matters shows at the next call.
  if (kind == MemoryKind::pinned) {
    cudaFreeHost(data);
  } else {
    cudaFree(data);
  }
}

void* create_stream(Priority priority) {
  int lowest = 0;
  int highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                     priority == Priority::high ? highest : lowest),
        "cudaStreamCreate");
  return stream;
}

void destroy_stream(void* stream) noexcept {
  cudaStreamDestroy(stream_of(stream));
}

void synchronize_stream(void* stream) {
  check(cudaStreamSynchronize(stream_of(stream)), "waiting for the CUDA stream");
}

void stream_wait(void* stream, void* event) {
  check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "cudaStreamWaitEvent");
}

void* create_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return event;
}

void destroy_event(void* event) noexcept {
  cudaEventDestroy(event_of(event));
}

void record_event(void* event, void* stream) {
  check(cudaEventRecord(event_of(event), stream_of(stream)), "cudaEventRecord");
}

void synchronize_event(void* event) {
  check(cudaEventSynchronize(event_of(event)), "waiting for the CUDA event");
}

double milliseconds_between(void* start, void* end) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, event_of(start), event_of(end)),
        "cudaEventElapsedTime");
  return milliseconds;
}

void begin_capture(void* stream) {
  check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeRelaxed),
        "cudaStreamBeginCapture");
}

void* end_capture(void* stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_of(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return executable;
}

void abandon_capture(void* stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream_of(stream), &graph);
  if (graph != nullptr) {
    cudaGraphDestroy(graph);
  }
  cudaGetLastError();  // the error that ended the recording is the one to be told of
}

void launch_graph(void* graph, void* stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)), "cudaGraphLaunch");
}

void destroy_graph(void* graph) noexcept {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

void copy(void* stream, const void* source, void* target, size_t bytes) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_of(stream)),
        "cudaMemcpyAsync");
}

void fill_zero(void* stream, void* target, size_t bytes) {
  check(cudaMemsetAsync(target, 0, bytes, stream_of(stream)), "cudaMemsetAsync");
}

}  // namespace gsa::cuda
