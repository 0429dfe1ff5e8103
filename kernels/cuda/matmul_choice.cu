// Choosing the algorithm of a product by measurement (kernels/product_choice.h).
//
// In a long run products go as fast as the GPU's power allows, not its clock, and the order of the
// algorithms is another then: a cool GPU says little. So the first proposal runs until the GPU is
// warm, then every candidate runs a few times, and the best of them run again in turns without a
// pause; the shortest sum of times wins. Operands are pseudo-random: a product of zeros draws less
// power.
//
// Candidates are the library's proposals and algorithms that it takes without proposing them
// (matmul_tiles.cu); of these only such as leave the bits that the first proposal leaves.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "kernels/backends.h"
#include "kernels/cuda/matmul_library.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

constexpr double warm_up_ms = 60;
constexpr int first_runs = 3;
constexpr size_t most_finalists = 6;  // that go on to the turns
constexpr int turns = 3;
constexpr double turn_ms = 15;
constexpr double tie = 1.005;

constexpr unsigned fill_blocks = 1024;
constexpr unsigned fill_threads = 256;

// Numbers in (-1, 1), from their index alone (the finalizer of MurmurHash3).
template <typename T>
__global__ void __launch_bounds__(fill_threads) fill_kernel(T* target, int64_t count) {
  for (int64_t i = int64_t{blockIdx.x} * fill_threads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * fill_threads) {
    auto x = uint32_t(i) + 1;
    x = (x ^ (x >> 16)) * 0x85EBCA6BU;
    x = (x ^ (x >> 13)) * 0xC2B2AE35U;
    x ^= x >> 16;
    target[i] = from_float<T>(float(int32_t(x)) * 0x1p-31F);
  }
}

// Memory with the layout of a tensor.
class Operand {
 public:
  Operand(Stream& stream, const ConstTensor& like)
      : count_(like.dim(0) * product_stride(like)),
        memory_(Device::cuda, size_t(count_) * size_of(like.dtype())),
        tensor_(memory_.tensor(like.dtype(), {like.dim(0), product_stride(like)})
                    .columns(0, like.dim(1))) {
    fill(stream);
  }
  void fill(Stream& stream) const {
    with_element(tensor_.dtype(), "measure_product", [&](auto element) {
      using T = decltype(element);
      fill_kernel<<<fill_blocks, fill_threads, 0, native(stream)>>>(
          reinterpret_cast<T*>(memory_.data()), count_);
      check_launch("measure_product");
    });
  }
  const Tensor& tensor() const { return tensor_; }
  // All of it, with what lies between rows.
  ConstTensor elements() const { return memory_.tensor(tensor_.dtype(), {count_}); }

 private:
  int64_t count_;
  Buffer memory_;
  Tensor tensor_;
};

class Measurement {
 public:
  Measurement(Stream& stream, const Matmul& product)
      : stream_(stream),
        a_(stream, product.a),
        b_(stream, product.b),
        c_(stream, product.c),
        workspace_(Device::cuda, matmul_workspace_bytes),
        args_(product),
        plan_(matmul_library().plan(product)),
        begin_(Device::cuda),
        end_(Device::cuda) {
    args_.a = a_.tensor();
    args_.b = b_.tensor();
    args_.c = c_.tensor();
    args_.accumulate = Accumulate::no;
    if (product.addend) {
      args_.addend = args_.c;
    }
  }

  // Milliseconds of one of `runs` runs in a row.
  double time(const ProductAlgorithm& algorithm, int runs) {
    plan_.algorithm = algorithm;
    begin_.record(stream_);
    for (int i = 0; i < runs; ++i) {
      matmul_library().run(stream_, plan_, args_, workspace_.data());
    }
    end_.record(stream_);
    end_.synchronize();
    return end_.milliseconds_since(begin_) / runs;
  }

  // A checksum of what it leaves.
  uint64_t bits(const ProductAlgorithm& algorithm) {
    c_.fill(stream_);
    time(algorithm, 1);
    const Buffer sum(Device::cuda, sizeof(uint64_t));
    const Tensor words = sum.tensor(DType::int32, {2});
    check(cudaMemsetAsync(words.data(), 0, sizeof(uint64_t), native(stream_)), "cudaMemsetAsync");
    cuda::checksum(stream_, {.input = c_.elements(), .sum = words});
    uint64_t bits = 0;
    check(
        cudaMemcpyAsync(&bits, words.data(), sizeof(bits), cudaMemcpyDeviceToHost, native(stream_)),
        "cudaMemcpyAsync");
    stream_.synchronize();
    return bits;
  }

 private:
  Stream& stream_;
  Operand a_;
  Operand b_;
  Operand c_;
  Buffer workspace_;
  Matmul args_;
  ProductPlan plan_;
  Event begin_;
  Event end_;
};

// Milliseconds by a first look; infinity if the library does not run it after all.
double first_look(Measurement& measurement, const ProductAlgorithm& algorithm) {
  try {
    measurement.time(algorithm, 1);  // loads its code
    return measurement.time(algorithm, first_runs);
  } catch (const DeviceError&) {
    return std::numeric_limits<double>::infinity();
  }
}

// The fastest by a first look, in their order. The first candidate is always among them: it is what
// the others are compared with. Of candidates from `proposed` on, those that leave its bits.
std::vector<ProductAlgorithm> best_of(Measurement& measurement,
                                      const std::vector<ProductAlgorithm>& candidates,
                                      size_t proposed) {
  std::vector<double> times;
  for (const ProductAlgorithm& algorithm : candidates) {
    times.push_back(first_look(measurement, algorithm));
  }
  std::vector<double> sorted = times;
  std::sort(sorted.begin(), sorted.end());
  const double slowest = sorted[std::min(most_finalists, sorted.size()) - 1];
  const uint64_t bits = measurement.bits(candidates.front());
  std::vector<ProductAlgorithm> best{candidates.front()};
  for (size_t i = 1; i < candidates.size(); ++i) {
    if (std::isfinite(times[i]) && times[i] <= slowest &&
        (i < proposed || measurement.bits(candidates[i]) == bits)) {
      best.push_back(candidates[i]);
    }
  }
  return best;
}

// Mean milliseconds of each of the algorithms, taken in turns.
std::vector<double> time_in_turns(Measurement& measurement,
                                  const std::vector<ProductAlgorithm>& algorithms,
                                  double estimate_ms) {
  const int runs = std::max(1, int(turn_ms / estimate_ms));
  std::vector<double> sums(algorithms.size(), 0.0);
  for (int turn = 0; turn < turns; ++turn) {
    for (size_t i = 0; i < algorithms.size(); ++i) {
      sums[i] += measurement.time(algorithms[i], runs) / turns;
    }
  }
  return sums;
}

constexpr int hex = 16;
constexpr size_t word_digits = 16;

std::string text_of(const ProductAlgorithm& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.value.data) {
    char digits[word_digits];
    const auto end = std::to_chars(digits, digits + word_digits, word, hex).ptr;
    text += std::string(word_digits - size_t(end - digits), '0') + std::string(digits, end);
  }
  return text;
}

bool parse(const std::string& text, ProductAlgorithm& algorithm) {
  if (text.size() != std::size(algorithm.value.data) * word_digits) {
    return false;
  }
  for (size_t i = 0; i < std::size(algorithm.value.data); ++i) {
    const char* begin = text.data() + i * word_digits;
    const auto [end, error] =
        std::from_chars(begin, begin + word_digits, algorithm.value.data[i], hex);
    if (error != std::errc() || end != begin + word_digits) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string product_library() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return std::string(static_cast<const char*>(properties.name)) + ", cuBLASLt " +
         std::to_string(cublasLtGetVersion());
}

ProductMeasurement measure_product(Stream& stream, const Matmul& product) {
  auto candidates = matmul_library().proposals(product, MatmulLibrary::most_proposals);
  const size_t proposed = candidates.size();
  for (const ProductAlgorithm& algorithm : filling_algorithms(matmul_library(), product)) {
    candidates.push_back(algorithm);
  }
  Measurement measurement(stream, product);
  measurement.time(candidates.front(), 1);
  const double estimate_ms = measurement.time(candidates.front(), 1);
  measurement.time(candidates.front(), 1 + int(warm_up_ms / estimate_ms));
  const std::vector<ProductAlgorithm> finalists = best_of(measurement, candidates, proposed);
  const std::vector<double> sums = time_in_turns(measurement, finalists, estimate_ms);
  const double fastest = *std::min_element(sums.begin(), sums.end());
  const auto winner = size_t(
      std::find_if(sums.begin(), sums.end(), [&](double ms) { return ms <= fastest * tie; }) -
      sums.begin());
  return {text_of(finalists[winner]), sums[winner], sums.front()};
}

std::string first_proposal(const Matmul& product) {
  return text_of(matmul_library().proposals(product, 1).front());
}

bool choose_product(const Matmul& product, const std::string& algorithm) {
  ProductAlgorithm parsed{};
  return parse(algorithm, parsed) && matmul_library().choose(product, parsed);
}

}  // namespace gsa::kernels::cuda
