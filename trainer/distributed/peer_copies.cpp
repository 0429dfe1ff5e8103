#include "trainer/distributed/peer_copies.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/optimizer.h"
#include "trainer/distributed/open_memory.h"

namespace gsa {
namespace {

// A rank that waits no more has numbers ahead of all that can be waited for. They are written again
// and again: others may still overwrite them.
constexpr uint32_t far_ahead = uint32_t{1} << 30;
constexpr std::chrono::milliseconds between_releases{20};
// What is copied between all ranks before they are believed to reach each other, and for how long.
constexpr int64_t trial_count = int64_t{1} << 20;  // a rank, bytes
constexpr std::chrono::seconds trial_patience{10};

// Empty if this rank's GPU can write to the memory of all others.
std::string complaint(const MpiGroup& group) {
  if (group.local_size() != group.size()) {
    return "the ranks are on several hosts";
  }
  if (group.size() > kernels::Sum::max_inputs) {
    return "more than " + std::to_string(kernels::Sum::max_inputs) + " ranks";
  }
  const int own = PeerCopies::device_of(group.rank());
  for (int peer = 0; peer < group.size(); ++peer) {
    const int theirs = PeerCopies::device_of(peer);
    int can = 1;
    if (theirs != own && (cudaDeviceCanAccessPeer(&can, own, theirs) != cudaSuccess || can == 0)) {
      cudaGetLastError();
      return "GPU " + std::to_string(own) + " cannot reach the memory of GPU " +
             std::to_string(theirs);
    }
  }
  return "";
}

std::string handle_of(const Tensor& tensor) {
  cudaIpcMemHandle_t handle;
  check_cuda(cudaIpcGetMemHandle(&handle, tensor.data()), "cudaIpcGetMemHandle");
  return {handle.reserved, sizeof(handle.reserved)};
}

std::byte* address(const Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data());
}

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

}  // namespace

int PeerCopies::device_of(int rank) {
  return rank % std::max(1, cuda_device_count());
}

std::unique_ptr<PeerCopies> PeerCopies::connect(MpiGroup& group, std::string& why) {
  try {
    require_all_well(group.all_gather_text(complaint(group)));
    std::unique_ptr<PeerCopies> copies(new PeerCopies(group));
    copies->try_out(group);
    return copies;
  } catch (const LostRanksError&) {
    throw;
  } catch (const CommunicationError& failure) {
    why = failure.what();
    return nullptr;
  }
}

PeerCopies::PeerCopies(MpiGroup& group)
    : rank_(group.rank()),
      size_(group.size()),
      shared_(group, flags),
      peers_(static_cast<size_t>(group.size())) {}

void PeerCopies::CloseMemory::operator()(std::byte* memory) const {
  cudaIpcCloseMemHandle(memory);
}

PeerCopies::OpenedMemory PeerCopies::open_handle(const std::string& handle) {
  cudaIpcMemHandle_t bytes;
  std::memcpy(bytes.reserved, handle.data(), sizeof(bytes.reserved));
  void* memory = nullptr;
  check_cuda(cudaIpcOpenMemHandle(&memory, bytes, cudaIpcMemLazyEnablePeerAccess),
             "cudaIpcOpenMemHandle");
  return OpenedMemory(static_cast<std::byte*>(memory));
}

// Gathers a pattern. Where memory can be reached by the driver's account and yet is not, or flags
// do not come, that shows here.
void PeerCopies::try_out(MpiGroup& group) {
  const Buffer memory(Device::cuda, static_cast<size_t>(trial_count) * static_cast<size_t>(size_));
  const Tensor all = memory.tensor(DType::byte, {trial_count * size_});
  open(group, all, all);
  Stream stream(Device::cuda);
  std::vector<uint8_t> pattern(static_cast<size_t>(trial_count));
  const auto fill = [&](int rank) {
    for (size_t i = 0; i < pattern.size(); ++i) {
      pattern[i] = static_cast<uint8_t>(i * 31 + i / 251 + static_cast<size_t>(rank) * 7);
    }
  };
  const Tensor host(pattern.data(), DType::byte, Device::cpu, {trial_count});
  const auto part = [&](int rank) {
    return all.rows(rank * trial_count, (rank + 1) * trial_count);
  };
  fill(rank_);
  copy(stream, host, part(rank_));
  all_gather(stream, part(rank_), all);
  std::string error;
  const auto deadline = std::chrono::steady_clock::now() + trial_patience;
  while (cudaStreamQuery(native(stream)) == cudaErrorNotReady && error.empty()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      error = "copies between the GPUs' memories do not arrive";
      stop_waiting();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  stream.synchronize();
  std::vector<uint8_t> came(pattern.size());
  for (int rank = 0; rank < size_ && error.empty(); ++rank) {
    copy(stream, part(rank), Tensor(came.data(), DType::byte, Device::cpu, {trial_count}));
    stream.synchronize();
    fill(rank);
    if (came != pattern) {
      error = "what GPU " + std::to_string(rank) + " writes to the memory of GPU " +
              std::to_string(rank_) + " arrives changed";
    }
  }
  close(group);
  require_all_well(group.all_gather_text(error));
}

void PeerCopies::open(MpiGroup& group, const Tensor& gathered, const Tensor& arriving) {
  gathered_ = gathered;
  arriving_ = arriving;
  std::string mine;
  std::string error;
  try {
    mine = handle_of(gathered) + handle_of(arriving);
  } catch (const CommunicationError& failure) {
    error = failure.what();
  }
  const std::vector<std::string> handles = group.all_gather_text(mine);
  try {
    open_peers(handles);
  } catch (const CommunicationError& failure) {
    error = error.empty() ? failure.what() : error;
  }
  const std::vector<std::string> errors = group.all_gather_text(error);
  if (std::any_of(errors.begin(), errors.end(), [](const auto& text) { return !text.empty(); })) {
    close(group);
  }
  require_all_well(errors);
}

void PeerCopies::open_peers(const std::vector<std::string>& handles) {
  constexpr size_t handle_bytes = sizeof(cudaIpcMemHandle_t::reserved);
  for (int peer = 0; peer < size_; ++peer) {
    const std::string& theirs = handles[static_cast<size_t>(peer)];
    if (theirs.size() != 2 * handle_bytes) {
      throw CommunicationError("rank " + std::to_string(peer) + " cannot open its memory");
    }
    if (peer != rank_) {
      Opened& opened = peers_[static_cast<size_t>(peer)];
      opened.gathered = open_handle(theirs.substr(0, handle_bytes));
      opened.arriving = open_handle(theirs.substr(handle_bytes));
    }
  }
}

// Nobody's memory goes before all others have closed it.
void PeerCopies::close(MpiGroup& group) {
  done_.synchronize();
  for (Opened& peer : peers_) {
    peer = {};
  }
  gathered_ = {};
  arriving_ = {};
  group.barrier();
}

bool PeerCopies::can_gather(const Tensor& output) const {
  return gathered_ && address(output) >= address(gathered_) &&
         address(output) + output.bytes() <= address(gathered_) + gathered_.bytes();
}

bool PeerCopies::can_reduce(const Tensor& output) const {
  return arriving_ && output.dtype() == DType::float32 &&
         OpenMemory::arriving_bytes(output.bytes(), size_) <= arriving_.bytes();
}

// A collective on another stream than the one before comes behind it all the same.
void PeerCopies::begin(Stream& stream) {
  ++number_;
  stream.wait(done_);
}

template <typename Source, typename Target>
void PeerCopies::exchange(const Stream& on, size_t bytes, const Source& source,
                          const Target& target) {
  cudaStream_t stream = native(on);
  const uint32_t number = number_;
  for (int step = 1; step < size_; ++step) {
    shared_.write(stream, (rank_ + step) % size_, ready, number);
  }
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + step) % size_;
    shared_.wait(stream, peer, ready, number);
    check_cuda(cudaMemcpyAsync(target(peer), source(peer), bytes, cudaMemcpyDeviceToDevice, stream),
               "copying to another GPU");
    shared_.write(stream, peer, arrived, number);
  }
  for (int step = 1; step < size_; ++step) {
    shared_.wait(stream, (rank_ + step) % size_, arrived, number);
  }
}

void PeerCopies::all_gather(Stream& stream, const ConstTensor& input, const Tensor& output) {
  begin(stream);
  const Tensor own = output.rows(rank_ * input.count(), (rank_ + 1) * input.count());
  if (own.data() != input.data()) {
    copy(stream, input, own);
  }
  const auto offset = address(own) - address(gathered_);
  exchange(
      stream, own.bytes(), [&](int /*peer*/) { return own.data(); },
      [&](int peer) { return peers_[static_cast<size_t>(peer)].gathered.get() + offset; });
  done_.record(stream);
}

void PeerCopies::reduce_scatter(Stream& stream, const ConstTensor& input, const Tensor& output) {
  begin(stream);
  const int64_t count = output.count();
  const size_t bytes = output.bytes();
  const auto part = [&](int rank) { return input.rows(rank * count, (rank + 1) * count); };
  exchange(
      stream, bytes, [&](int peer) { return part(peer).data(); },
      [&](int peer) {
        return peers_[static_cast<size_t>(peer)].arriving.get() +
               OpenMemory::slot(rank_, peer, bytes);
      });
  kernels::Sum sum{.output = output, .count = size_};
  for (int rank = 0; rank < size_; ++rank) {
    auto& addend = sum.inputs.at(static_cast<size_t>(rank));
    if (rank == rank_) {
      addend = part(rank);
    } else {
      addend = ConstTensor(address(arriving_) + OpenMemory::slot(rank, rank_, bytes),
                           output.dtype(), Device::cuda, output.shape());
    }
  }
  kernels::sum(stream, sum);
  done_.record(stream);
}

void PeerCopies::stop_waiting() {
  if (!stopped_.exchange(true)) {
    releasing_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        shared_.release(number_ + far_ahead);
        std::this_thread::sleep_for(between_releases);
      }
    });
  }
}

}  // namespace gsa
