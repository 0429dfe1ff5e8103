// What kernels/cuda/runtime.h promises, in a build without CUDA: no device, and one clear message.
#include "kernels/cuda/runtime.h"

namespace gsa::cuda {
namespace {

[[noreturn]] void absent() {
  throw DeviceError(
      "this build has no CUDA: configure with -DGSA_CUDA=ON where nvcc is installed, or run with "
      "distributed.device=cpu");
}

}  // namespace

int device_count() {
  return 0;
}
DeviceInfo device_info(int /*ordinal*/) {
  absent();
}
void use_device(int /*ordinal*/) {
  absent();
}
std::byte* allocate(size_t /*bytes*/, MemoryKind /*kind*/) {
  absent();
}
void release(std::byte* /*data*/, MemoryKind /*kind*/) noexcept {}
void* create_stream(Priority /*priority*/) {
  absent();
}
void destroy_stream(void* /*stream*/) noexcept {}
void synchronize_stream(void* /*stream*/) {
  absent();
}
void stream_wait(void* /*stream*/, void* /*event*/) {
  absent();
}
void* create_event() {
  absent();
}
void destroy_event(void* /*event*/) noexcept {}
void record_event(void* /*event*/, void* /*stream*/) {
  absent();
}
void synchronize_event(void* /*event*/) {
  absent();
}
double milliseconds_between(void* /*start*/, void* /*end*/) {
  absent();
}
void begin_capture(void* /*stream*/) {
  absent();
}
void* end_capture(void* /*stream*/) {
  absent();
}
void abandon_capture(void* /*stream*/) noexcept {}
void launch_graph(void* /*graph*/, void* /*stream*/) {
  absent();
}
void destroy_graph(void* /*graph*/) noexcept {}
void copy(void* /*stream*/, const void* /*source*/, void* /*target*/, size_t /*bytes*/) {
  absent();
}
void fill_zero(void* /*stream*/, void* /*target*/, size_t /*bytes*/) {
  absent();
}

}  // namespace gsa::cuda
