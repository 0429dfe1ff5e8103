// Runs the same operations on the CPU and on CUDA and compares what they leave.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "kernels/operations.h"
#include "tests/support/host_tensor.h"
#include "tests/support/scratch.h"

namespace gsa::test {

// Rounding of float32 sums in another order, against the CPU in float32.
inline constexpr double cuda_float_tolerance = 1e-5;
// bfloat16 keeps 8 bits: against the CPU in float32 from the same rounded inputs.
inline constexpr double cuda_bfloat16_tolerance = 2e-2;

// How the rows of a matrix lie: `offset` elements into a row that is wider by that and `padding`.
struct Layout {
  int64_t padding = 0;
  int64_t offset = 0;
};
inline constexpr Layout contiguous{};
inline constexpr Layout aligned_gaps{.padding = 16, .offset = 8};  // rows at multiples of 16 bytes
inline constexpr Layout odd_gaps{.padding = 2, .offset = 1};
inline constexpr Layout all_layouts[] = {contiguous, aligned_gaps, odd_gaps};

// One device with the tensors of a test. Inputs come from one seed in the order of the calls, so
// that the same calls make the same inputs on both devices.
class Bench {
 public:
  // `dtype` is what the operations compute in; `rounded`: inputs are bfloat16 numbers whatever type
  // they are stored in.
  Bench(Device device, DType dtype, bool rounded);

  Stream& stream() { return stream_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  // Random inputs, of dtype() or float32.
  Tensor random(Shape shape, double low = -1, double high = 1, Layout layout = {});
  Tensor random_float(Shape shape, double low = -1, double high = 1, Layout layout = {});
  Tensor values(DType dtype, Shape shape, const std::vector<double>& values, Layout layout = {});
  Tensor integers(const std::vector<int32_t>& values);
  std::vector<int32_t> random_integers(int64_t count, int32_t end);
  // Outputs, full of NaN until they are written.
  Tensor output(Shape shape, Layout layout = {});
  Tensor output(DType dtype, Shape shape, Layout layout = {});

  // Takes note of a tensor's elements as a result. Fails the test if the gaps between its rows are
  // not as they were.
  void keep(const std::string& name, const Tensor& tensor);

  struct Result {
    std::string name;
    std::vector<double> values;
    std::vector<std::byte> bits;
  };
  const std::vector<Result>& results() const { return results_; }

 private:
  struct Storage {
    Buffer buffer;
    Tensor whole;  // with the gaps
    Tensor view;
    Layout layout;
  };
  Tensor make(DType dtype, Shape shape, Layout layout, const std::vector<double>& values);

  Device device_;
  DType dtype_;
  bool rounded_;
  Random random_{20240911};
  Buffer scratch_buffer_;
  std::unique_ptr<ScratchMemory> scratch_;
  Stream stream_;
  std::deque<Storage> storage_;
  std::vector<Result> results_;
};

// The body of a test: makes tensors, runs operations, keeps results.
using Body = std::function<void(Bench&)>;

// Expects of `body` on CUDA, in float32 and in bfloat16, what the CPU leaves in float32 (within the
// tolerances above), and the same bits when it runs again. Prints the largest error by `name`.
void expect_as_on_cpu(const std::string& name, const Body& body);
// The same in one dtype only.
void expect_as_on_cpu(const std::string& name, DType dtype, const Body& body);
void expect_as_on_cpu(const std::string& name, DType dtype, double tolerance, const Body& body);

// Skips the tests of a fixture where there is no GPU.
#define GSA_SKIP_WITHOUT_CUDA()                                       \
  if (cuda_device_count() == 0) {                                     \
    GTEST_SKIP() << "no CUDA device on this machine: nothing to run"; \
  }

}  // namespace gsa::test
