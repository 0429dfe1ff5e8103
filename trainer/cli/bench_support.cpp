#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "kernels/matmul.h"
#include "kernels/optimizer.h"
#include "trainer/cli/bench.h"

namespace gsa {
namespace {

constexpr int warm_up_runs = 3;
constexpr size_t fewest_runs = 5;
constexpr size_t most_runs = 1000;
constexpr double ms_per_second = 1e3;

}  // namespace

void BenchResult::add(const std::string& name, const std::map<std::string, double>& group) {
  groups_.emplace_back(name, group);
}

std::string BenchResult::table() const {
  std::string text;
  for (const auto& [name, value] : texts_) {
    text += fmt::format("  {:<36} {}\n", name, value);
  }
  for (const auto& [name, value] : values_) {
    text += fmt::format("  {:<36} {:.4g}\n", name, value);
  }
  for (const auto& [group, values] : groups_) {
    text += fmt::format("  {}\n", group);
    for (const auto& [name, value] : values) {
      text += fmt::format("    {:<34} {:.4g}\n", name, value);
    }
  }
  return text;
}

std::string BenchResult::json() const {
  std::string text;
  const auto separator = [&text] { return text.empty() ? "" : ","; };
  for (const auto& [name, value] : texts_) {
    text += fmt::format("{}\"{}\":\"{}\"", separator(), name, value);
  }
  for (const auto& [name, value] : values_) {
    text += fmt::format("{}\"{}\":{}", separator(), name, value);
  }
  for (const auto& [group, values] : groups_) {
    std::string inner;
    for (const auto& [name, value] : values) {
      inner += fmt::format("{}\"{}\":{}", inner.empty() ? "" : ",", name, value);
    }
    text += fmt::format("{}\"{}\":{{{}}}", separator(), group, inner);
  }
  return "{" + text + "}\n";
}

double median_ms(Stream& stream, const std::function<void()>& work, double budget_seconds) {
  for (int i = 0; i < warm_up_runs; ++i) {
    work();
  }
  stream.synchronize();
  std::vector<double> times;
  const auto start = std::chrono::steady_clock::now();
  Event begin(stream.device());
  Event end(stream.device());
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (times.size() < fewest_runs || (times.size() < most_runs && elapsed() < budget_seconds)) {
    begin.record(stream);
    work();
    end.record(stream);
    end.synchronize();
    times.push_back(end.milliseconds_since(begin));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void PhaseTimer::before(const char* phase) {
  spans_.push_back({phase, Event(stream_.device()), Event(stream_.device())});
  spans_.back().begin.record(stream_);
}

void PhaseTimer::after(const char* /*phase*/, double /*flops*/) {
  spans_.back().end.record(stream_);
}

std::map<std::string, double> PhaseTimer::milliseconds() {
  stream_.synchronize();
  std::map<std::string, double> sums;
  for (const Span& span : spans_) {
    sums[span.phase] += span.end.milliseconds_since(span.begin);
  }
  return sums;
}

double copy_tb_s(Stream& stream) {
  const bool gpu = stream.device() == Device::cuda;
  const int64_t bytes = gpu ? int64_t{4} << 30 : int64_t{256} << 20;
  const Buffer from(stream.device(), static_cast<size_t>(bytes));
  const Buffer to(stream.device(), static_cast<size_t>(bytes));
  const Tensor source = from.tensor(DType::byte, {bytes});
  const Tensor target = to.tensor(DType::byte, {bytes});
  fill_zero(stream, source);
  const double ms = median_ms(
      stream, [&] { copy(stream, source, target); }, 0.3);
  return 2.0 * double(bytes) / (ms / ms_per_second) / 1e12;
}

double gemm_tflops(Stream& stream, DType dtype, int64_t m, int64_t n, int64_t k) {
  const auto bytes = [&](int64_t count) { return static_cast<size_t>(count) * size_of(dtype); };
  const Buffer a(stream.device(), bytes(m * k));
  const Buffer b(stream.device(), bytes(n * k));
  const Buffer c(stream.device(), bytes(m * n));
  fill_normal(stream, a.tensor(dtype, {m, k}), 1.0, 1);
  fill_normal(stream, b.tensor(dtype, {n, k}), 1.0, 2);
  const kernels::Matmul product{.a = a.tensor(dtype, {m, k}),
                                .b = b.tensor(dtype, {n, k}),
                                .transpose_b = kernels::Transpose::yes,
                                .c = c.tensor(dtype, {m, n})};
  const double ms = median_ms(
      stream, [&] { kernels::matmul(stream, product); }, 0.3);
  return product.flops() / (ms / ms_per_second) / 1e12;
}

void fill_normal(Stream& stream, Tensor tensor, double scale, uint64_t seed) {
  // One block of numbers, repeated: enough to keep the arithmetic honest, quick to make.
  constexpr int64_t block = 1 << 20;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, static_cast<float>(scale));
  std::vector<float> values(static_cast<size_t>(std::min(block, tensor.count())));
  for (float& value : values) {
    value = normal(random);
  }
  const auto count = static_cast<int64_t>(values.size());
  const Buffer staging(stream.device(), values.size() * sizeof(float));
  const Tensor floats = staging.tensor(DType::float32, {count});
  copy(stream, {values.data(), DType::float32, Device::cpu, {count}}, floats);
  const Tensor flat = tensor.reshape({tensor.count()});
  for (int64_t begin = 0; begin < flat.count(); begin += count) {
    const int64_t end = std::min(flat.count(), begin + count);
    kernels::convert(stream,
                     {.input = floats.rows(0, end - begin), .output = flat.rows(begin, end)});
  }
  stream.synchronize();
}

void describe_machine(const Session& session, BenchResult& result) {
  result.add("device", device_info(session.device, session.ordinal).name);
  result.add("dtype", name_of(session.dtype));
  result.add("ranks", double(session.communicator->size()));
  if (session.communicator->size() > 1) {
    result.add("transport", session.communicator->transport());
  }
}

}  // namespace gsa
