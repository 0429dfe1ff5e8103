// What the benchmarks of `gsa bench` share: timing, the machine's own figures, results.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device.h"
#include "kernels/sampling.h"
#include "trainer/session.h"

namespace gsa {

// Named figures in the order in which they were measured, as a table and as JSON.
class BenchResult {
 public:
  void add(const std::string& name, double value) { values_.emplace_back(name, value); }
  void add(const std::string& name, const std::string& text) { texts_.emplace_back(name, text); }
  void add(const std::string& name, const std::map<std::string, double>& group);

  std::string table() const;
  std::string json() const;

 private:
  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<std::pair<std::string, double>> values_;
  std::vector<std::pair<std::string, std::map<std::string, double>>> groups_;
};

// Median milliseconds of `work` queued on the stream, after warm-up, by the stream's own events.
// Runs for about `budget_seconds`, at least five times.
double median_ms(Stream& stream, const std::function<void()>& work, double budget_seconds = 1.0);

// Milliseconds by phase of what is queued while it is the stream's observer.
class PhaseTimer final : public OperationObserver {
 public:
  explicit PhaseTimer(Stream& stream) : stream_(stream) {}
  void before(const char* phase) override;
  void after(const char* phase, double flops) override;
  // Waits for the stream; milliseconds a phase.
  std::map<std::string, double> milliseconds();

 private:
  struct Span {
    const char* phase;
    Event begin;
    Event end;
  };
  Stream& stream_;
  std::vector<Span> spans_;
};

// What the machine reaches by itself: a large copy (bytes read and written, TB/s), and bf16
// (float32 on the CPU) matrix products of this size, TFLOP/s.
double copy_tb_s(Stream& stream);
double gemm_tflops(Stream& stream, DType dtype, int64_t m, int64_t n, int64_t k);

// Fills a tensor of the stream's device with normal(0, scale) numbers of this seed.
void fill_normal(Stream& stream, Tensor tensor, double scale, uint64_t seed);

// Device, ranks and precision, at the head of every result.
void describe_machine(const Session& session, BenchResult& result);

struct BenchOpOptions {
  int64_t batch = 0;  // 0: by device, 8 on a GPU, 2 on a CPU; likewise the others
  int64_t length = 0;
  int64_t heads = 4;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t slots = 0;
  bool projected = false;  // q, k, v before their activations, gates as logits
};
BenchResult bench_op(const BenchOpOptions& options, Session& session);

struct BenchStepOptions {
  int64_t accumulation = 1;
  int64_t steps = 0;  // timed; 0: about ten seconds
};
BenchResult bench_step(const Config& config, const BenchStepOptions& options, Session& session);

struct BenchGenerateOptions {
  int64_t batch = 1;     // texts side by side
  int64_t prompt = 128;  // tokens each
  int64_t tokens = 200;  // timed, of each text
  kernels::SamplingOptions sampling{.temperature = 0};
  bool reference = false;  // steps as the model's forward pass in the recurrent form
};
// Random weights of the configuration; tokens_per_second counts all texts together.
BenchResult bench_generate(const Config& config, const BenchGenerateOptions& options,
                           Session& session);

struct BenchCheckpointOptions {
  int64_t accumulation = 1;
  std::string directory;  // to write to; empty: run.directory of the configuration
};
// A checkpoint written while steps run, and plain writes of as many bytes beside it. Leaves nothing
// in that folder. Throws CheckpointError or std::system_error where the disk is full.
BenchResult bench_checkpoint(const Config& config, const BenchCheckpointOptions& options,
                             Session& session);

BenchResult bench_comm(const Config& config, Session& session);

}  // namespace gsa
