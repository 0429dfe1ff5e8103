// Collectives on host tensors, in two phases of which each tensor collective is one or both: every
// rank sums its own part of the data over all ranks; every rank sends its own part to all others.
#include "trainer/distributed/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "trainer/distributed/collective.h"
#include "trainer/distributed/mpi_group.h"

namespace gsa {
namespace {

// Elements summed at a time, in a buffer that stays in the first-level cache.
constexpr int64_t sum_tile = 1024;

// How `count` elements are shared out: contiguous parts, in rank order, equal to within one.
struct Parts {
  int64_t count;
  int64_t ranks;
  int64_t begin(int64_t rank) const { return count * rank / ranks; }
  int64_t size(int64_t rank) const { return begin(rank + 1) - begin(rank); }
  int64_t largest() const { return (count + ranks - 1) / ranks; }
};

// output[i] = sources[0][i] + sources[1][i] + ..., always in this order: the same bits in every
// run. The output may be one of the sources.
template <typename T>
void sum_in_order(const std::vector<const T*>& sources, int64_t count, T* output) {
  std::array<T, sum_tile> sum;
  for (int64_t begin = 0; begin < count; begin += sum_tile) {
    const int64_t n = std::min(sum_tile, count - begin);
    std::copy_n(sources[0] + begin, n, sum.data());
    for (size_t source = 1; source < sources.size(); ++source) {
      const T* values = sources[source] + begin;
      for (int64_t i = 0; i < n; ++i) {
        sum[static_cast<size_t>(i)] += values[i];
      }
    }
    std::copy_n(sum.data(), n, output + begin);
  }
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(double timeout_seconds) : group_(timeout_seconds) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  int local_rank() const override { return group_.local_rank(); }
  int local_size() const override { return group_.local_size(); }
  std::string transport() const override { return "MPI"; }

  void reduce_scatter(Stream& stream, ConstTensor input, Tensor output) override {
    check_reduce_scatter(stream, input, output, size());
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      sum_parts(Collective::reduce_scatter, input, output.data());
    }
  }

  void all_gather(Stream& stream, ConstTensor input, Tensor output) override {
    check_all_gather(stream, input, output, size());
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      std::byte* own = static_cast<std::byte*>(output.data()) + input.bytes() * own_index();
      if (own != input.data() && input.bytes() > 0) {
        std::memcpy(own, input.data(), input.bytes());
      }
      gather_parts(Collective::all_gather, output);
    }
  }

  void all_reduce(Stream& stream, Tensor tensor) override {
    check_all_reduce(stream, tensor);
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      const Parts parts{tensor.count(), size()};
      std::byte* own = static_cast<std::byte*>(tensor.data()) +
                       static_cast<size_t>(parts.begin(rank())) * size_of(tensor.dtype());
      sum_parts(Collective::all_reduce, tensor, own);
      gather_parts(Collective::all_reduce, tensor);
    }
  }

  void barrier() override { group_.barrier(); }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    return group_.all_gather_text(text);
  }
  std::string broadcast_text(const std::string& text) override {
    return group_.broadcast_text(text);
  }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  size_t own_index() const { return static_cast<size_t>(rank()); }

  // Writes the sum over all ranks of this rank's part of `input` to `output`.
  void sum_parts(Collective collective, const ConstTensor& input, void* output) {
    if (input.dtype() == DType::float32) {
      sum_parts_of(collective, input.as<float>(), input.count(), static_cast<float*>(output));
    } else {
      sum_parts_of(collective, input.as<double>(), input.count(), static_cast<double*>(output));
    }
  }

  template <typename T>
  void sum_parts_of(Collective collective, const T* input, int64_t count, T* output) {
    constexpr int64_t block = MpiGroup::block_bytes / sizeof(T);
    const Parts parts{count, size()};
    staging_.resize(static_cast<size_t>(size()) * MpiGroup::block_bytes);
    std::vector<const T*> sources(static_cast<size_t>(size()));
    for (int64_t begin = 0; begin < parts.largest(); begin += block) {
      outgoing_.clear();
      incoming_.clear();
      const int64_t own_count = std::clamp<int64_t>(parts.size(rank()) - begin, 0, block);
      for (int peer = 0; peer < size(); ++peer) {
        const auto index = static_cast<size_t>(peer);
        const T* part = input + parts.begin(peer) + begin;
        if (peer == rank()) {
          sources[index] = part;
          continue;
        }
        std::byte* received = staging_.data() + index * MpiGroup::block_bytes;
        sources[index] = reinterpret_cast<const T*>(received);
        const int64_t their_count = std::clamp<int64_t>(parts.size(peer) - begin, 0, block);
        if (their_count > 0) {
          outgoing_.push_back({peer, part, static_cast<size_t>(their_count) * sizeof(T)});
        }
        if (own_count > 0) {
          incoming_.push_back({peer, received, static_cast<size_t>(own_count) * sizeof(T)});
        }
      }
      group_.exchange(collective, outgoing_, incoming_);
      sum_in_order(sources, own_count, output + begin);
    }
  }

  // Completes `tensor` on every rank: each sends the part that is its own.
  void gather_parts(Collective collective, const Tensor& tensor) {
    const auto element = static_cast<int64_t>(size_of(tensor.dtype()));
    const auto block = static_cast<int64_t>(MpiGroup::block_bytes) / element;
    const Parts parts{tensor.count(), size()};
    auto* data = static_cast<std::byte*>(tensor.data());
    for (int64_t begin = 0; begin < parts.largest(); begin += block) {
      outgoing_.clear();
      incoming_.clear();
      const auto bytes_of = [&](int owner) {
        return static_cast<size_t>(std::clamp<int64_t>(parts.size(owner) - begin, 0, block) *
                                   element);
      };
      const std::byte* own = data + (parts.begin(rank()) + begin) * element;
      for (int peer = 0; peer < size(); ++peer) {
        if (peer != rank() && bytes_of(rank()) > 0) {
          outgoing_.push_back({peer, own, bytes_of(rank())});
        }
        if (peer != rank() && bytes_of(peer) > 0) {
          std::byte* theirs = data + (parts.begin(peer) + begin) * element;
          incoming_.push_back({peer, theirs, bytes_of(peer)});
        }
      }
      group_.exchange(collective, outgoing_, incoming_);
    }
  }

  MpiGroup group_;
  std::vector<std::byte> staging_;  // one block from each rank
  std::vector<OutgoingMessage> outgoing_;
  std::vector<IncomingMessage> incoming_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(double timeout_seconds) {
  return std::make_unique<MpiCommunicator>(timeout_seconds);
}

}  // namespace gsa
