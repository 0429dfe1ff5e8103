// One rank: sums and gathers of one are copies.
#include <cstdio>
#include <cstdlib>

#include "trainer/distributed/collective.h"
#include "trainer/distributed/communicator.h"

namespace gsa {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string transport() const override { return "none: one rank"; }

  void reduce_scatter(Stream& stream, ConstTensor input, Tensor output) override {
    check_reduce_scatter(stream, input, output, size());
    copy_unless_same(stream, input, output);
  }
  void all_gather(Stream& stream, ConstTensor input, Tensor output) override {
    check_all_gather(stream, input, output, size());
    copy_unless_same(stream, input, output);
  }
  void all_reduce(Stream& stream, Tensor tensor) override { check_all_reduce(stream, tensor); }

  void barrier() override {}
  std::vector<std::string> all_gather_text(const std::string& text) override { return {text}; }
  std::string broadcast_text(const std::string& text) override { return text; }

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  static void copy_unless_same(Stream& stream, const ConstTensor& input, const Tensor& output) {
    const ObservedCollective observed(stream);
    if (!stream.is_planning() && input.data() != output.data()) {
      copy(stream, input.reshape({input.count()}), output.reshape({output.count()}));
    }
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace gsa
