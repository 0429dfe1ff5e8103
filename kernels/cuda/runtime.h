// Memory, streams and events of CUDA, without CUDA's types: what kernels/device.cpp stands on.
// kernels/no_cuda defines the same functions for a build without CUDA.
#pragma once

#include "kernels/device.h"

namespace gsa::cuda {

int device_count();  // 0 if the driver is absent
DeviceInfo device_info(int ordinal);
void use_device(int ordinal);

std::byte* allocate(size_t bytes, MemoryKind kind);
void release(std::byte* data, MemoryKind kind) noexcept;

void* create_stream(Priority priority);
void destroy_stream(void* stream) noexcept;
void synchronize_stream(void* stream);
void stream_wait(void* stream, void* event);

void* create_event();
void destroy_event(void* event) noexcept;
void record_event(void* event, void* stream);
void synchronize_event(void* event);
double milliseconds_between(void* start, void* end);

// What is queued on the stream between the first two is recorded instead of run; a graph is
// launched any number of times.
void begin_capture(void* stream);
void* end_capture(void* stream);
void abandon_capture(void* stream) noexcept;
void launch_graph(void* graph, void* stream);
void destroy_graph(void* graph) noexcept;

void copy(void* stream, const void* source, void* target, size_t bytes);
void fill_zero(void* stream, void* target, size_t bytes);

}  // namespace gsa::cuda
