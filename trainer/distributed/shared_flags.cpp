#include "trainer/distributed/shared_flags.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "trainer/distributed/communicator.h"

namespace gsa {
namespace {

// A function of the driver, found without linking the driver.
template <typename Function>
Function driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned version = 12000;
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &result),
             name);
  if (result != cudaDriverEntryPointSuccess) {
    throw CommunicationError(std::string("the CUDA driver has no ") + name);
  }
  return reinterpret_cast<Function>(function);
}

void check_driver(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) {
    throw CommunicationError(std::string(what) + ": the CUDA driver's error " +
                             std::to_string(int(result)));
  }
}

std::string new_name() {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return "/gsa-" + std::to_string(getpid()) + "-" + std::to_string(now);
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    cudaGetLastError();  // forgotten, so that no later call answers with it
    throw CommunicationError(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

void require_all_well(const std::vector<std::string>& errors) {
  for (const std::string& theirs : errors) {
    if (!theirs.empty()) {
      throw CommunicationError(theirs);
    }
  }
}

SharedFlags::SharedFlags(MpiGroup& group, int each)
    : rank_(group.rank()), size_(group.size()), each_(each), bytes_(place(group.size(), 0, 0)) {
  const bool creates = rank_ == 0;
  std::string name = creates ? new_name() : "";
  std::string error;
  const auto attempt = [&](const auto& step) {
    try {
      step();
    } catch (const CommunicationError& failure) {
      error = failure.what();
    }
  };
  if (creates) {
    attempt([&] { map(name, true); });
  }
  name = group.broadcast_text(name);
  // Those that can, open it; then all hear whether all could.
  if (!creates) {
    attempt([&] { map(name, false); });
  }
  attempt([&] {
    if (error.empty()) {
      write_ = driver_function<decltype(write_)>("cuStreamWriteValue32");
      wait_ = driver_function<decltype(wait_)>("cuStreamWaitValue32");
    }
  });
  const std::vector<std::string> errors = group.all_gather_text(error);
  if (creates) {
    shm_unlink(name.c_str());
  }
  require_all_well(errors);
}

void SharedFlags::map(const std::string& name, bool create) {
  const auto require = [&](bool good, const char* what, int number) {
    if (!good) {
      throw CommunicationError(std::string("shared memory ") + name + ": " + what + ": " +
                               std::strerror(number));
    }
  };
  const int file = shm_open(name.c_str(), create ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
  require(file >= 0, "open", errno);
  // Space that is not there must be known before memory is touched.
  const int room = create ? posix_fallocate(file, 0, static_cast<off_t>(bytes_)) : 0;
  void* memory =
      room == 0 ? mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const int number = room != 0 ? room : errno;
  close(file);
  require(memory != MAP_FAILED, "map", number);
  memory_ = {static_cast<std::byte*>(memory), Unmap{bytes_}};
  check_cuda(
      cudaHostRegister(memory_.get(), bytes_, cudaHostRegisterMapped | cudaHostRegisterPortable),
      "cudaHostRegister");
  void* on_device = nullptr;
  check_cuda(cudaHostGetDevicePointer(&on_device, memory_.get(), 0), "cudaHostGetDevicePointer");
  on_device_ = static_cast<std::byte*>(on_device);
}

void SharedFlags::Unmap::operator()(std::byte* memory) const {
  cudaHostUnregister(memory);
  cudaGetLastError();  // it may never have been registered
  munmap(memory, bytes);
}

void SharedFlags::write(cudaStream_t stream, int reader, int kind, uint32_t value) const {
  const auto address = reinterpret_cast<CUdeviceptr>(on_device_ + place(reader, rank_, kind));
  check_driver(write_(stream, address, value, CU_STREAM_WRITE_VALUE_DEFAULT),
               "cuStreamWriteValue32");
}

void SharedFlags::wait(cudaStream_t stream, int writer, int kind, uint32_t value) const {
  const auto address = reinterpret_cast<CUdeviceptr>(on_device_ + place(rank_, writer, kind));
  check_driver(wait_(stream, address, value, CU_STREAM_WAIT_VALUE_GEQ), "cuStreamWaitValue32");
}

void SharedFlags::release(uint32_t value) const {
  for (int writer = 0; writer < size_; ++writer) {
    for (int kind = 0; kind < each_; ++kind) {
      reinterpret_cast<Flag*>(memory_.get() + place(rank_, writer, kind))->store(value);
    }
  }
}

}  // namespace gsa
