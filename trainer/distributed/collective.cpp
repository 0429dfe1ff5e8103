#include "trainer/distributed/collective.h"

#include <stdexcept>
#include <string>

namespace gsa {
namespace {

[[noreturn]] void reject(const char* collective, const std::string& what) {
  throw std::invalid_argument(std::string(collective) + ": " + what);
}

void check_tensor(const char* collective, const char* name, const Stream& stream,
                  const ConstTensor& tensor) {
  if (tensor.device() != stream.device()) {
    reject(collective, std::string(name) + " lies on " + name_of(tensor.device()) +
                           ", the stream runs on " + name_of(stream.device()));
  }
  if (!tensor.is_contiguous()) {
    reject(collective, std::string(name) + " must be contiguous");
  }
}

void check_summable(const char* collective, DType dtype) {
  if (dtype != DType::float32 && dtype != DType::float64) {
    reject(collective, std::string("sums float32 or float64, not ") + name_of(dtype));
  }
}

void check_pair(const char* collective, const ConstTensor& one, const char* one_name,
                const ConstTensor& all, const char* all_name, int ranks) {
  if (one.dtype() != all.dtype()) {
    reject(collective, std::string("input and output must have one dtype, they are ") +
                           name_of(one.dtype()) + " and " + name_of(all.dtype()));
  }
  if (one.count() * ranks != all.count()) {
    reject(collective, std::string(all_name) + " must hold " + std::to_string(ranks) + " times " +
                           one_name + " (" + std::to_string(one.count()) + " elements), holds " +
                           std::to_string(all.count()));
  }
}

}  // namespace

void check_reduce_scatter(const Stream& stream, const ConstTensor& input, const Tensor& output,
                          int ranks) {
  constexpr const char* name = "reduce_scatter";
  check_tensor(name, "input", stream, input);
  check_tensor(name, "output", stream, output);
  check_summable(name, input.dtype());
  check_pair(name, output, "output", input, "input", ranks);
}

void check_all_gather(const Stream& stream, const ConstTensor& input, const Tensor& output,
                      int ranks) {
  constexpr const char* name = "all_gather";
  check_tensor(name, "input", stream, input);
  check_tensor(name, "output", stream, output);
  check_pair(name, input, "input", output, "output", ranks);
}

void check_all_reduce(const Stream& stream, const Tensor& tensor) {
  constexpr const char* name = "all_reduce";
  check_tensor(name, "tensor", stream, tensor);
  check_summable(name, tensor.dtype());
}

}  // namespace gsa
