#include "tests/distributed/shared_gpu_ranks.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/distributed/mpi_test.h"
#include "trainer/distributed/mpi_group.h"
#include "trainer/distributed/peer_copies.h"

namespace gsa::testing {
namespace {

class SharedGpuRanks final : public Communicator {
 public:
  SharedGpuRanks() : group_(test_timeout_seconds) {
    use_device(Device::cuda, PeerCopies::device_of(group_.rank()));
    std::string why;
    copies_ = PeerCopies::connect(group_, why);
    if (!copies_) {
      throw CommunicationError(why);
    }
  }

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  int local_rank() const override { return group_.local_rank(); }
  int local_size() const override { return group_.local_size(); }
  std::string transport() const override { return "copies"; }

  bool copies_memory() const override { return true; }
  void open_memory(const Tensor& gathered, const Tensor& arriving) override {
    copies_->open(group_, gathered, arriving);
  }
  void close_memory() override { copies_->close(group_); }

  void reduce_scatter(Stream& stream, ConstTensor input, Tensor output) override {
    require(copies_->can_reduce(output));
    copies_->reduce_scatter(stream, input, output);
  }
  void all_gather(Stream& stream, ConstTensor input, Tensor output) override {
    require(copies_->can_gather(output));
    copies_->all_gather(stream, input, output);
  }
  void all_reduce(Stream& stream, Tensor tensor) override {
    std::vector<double> values(static_cast<size_t>(tensor.count()));
    const Tensor host(values.data(), DType::float64, Device::cpu, tensor.shape());
    copy(stream, tensor, host);
    stream.synchronize();
    const std::string mine(reinterpret_cast<const char*>(values.data()), host.bytes());
    values.assign(values.size(), 0);
    for (const std::string& theirs : group_.all_gather_text(mine)) {
      std::vector<double> other(values.size());
      std::memcpy(other.data(), theirs.data(), theirs.size());
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] += other[i];
      }
    }
    copy(stream, host, tensor);
    stream.synchronize();
  }

  void barrier() override { group_.barrier(); }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    return group_.all_gather_text(text);
  }
  std::string broadcast_text(const std::string& text) override {
    return group_.broadcast_text(text);
  }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  static void require(bool is_open) {
    if (!is_open) {
      throw std::logic_error("this memory is not open to the other ranks");
    }
  }

  MpiGroup group_;
  std::unique_ptr<PeerCopies> copies_;
};

}  // namespace

std::unique_ptr<Communicator> shared_gpu_ranks() {
  return std::make_unique<SharedGpuRanks>();
}

}  // namespace gsa::testing
