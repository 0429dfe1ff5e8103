#include "tests/trainer/run/program.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "tests/support/host_tensor.h"
#include "trainer/checkpoint/checkpoint.h"

namespace gsa::test {
namespace {

std::string program() {
  const char* path = std::getenv("GSA_BINARY");
  if (path == nullptr) {
    throw std::runtime_error("GSA_BINARY is not set: run these tests with ctest");
  }
  return path;
}

// Documents of words from a small vocabulary: something to learn, and no two alike.
std::string made_up_text(uint64_t seed, int documents) {
  constexpr std::array words = {"gate",  "slot",  "key",    "value",
                                "state", "reads", "writes", "forgets"};
  constexpr std::array sources = {"RedPajamaC4", "RedPajamaBook", "RedPajamaGithub"};
  constexpr int words_a_document = 60;
  Random random(seed);
  std::string text;
  for (int i = 0; i < documents; ++i) {
    std::string document;
    for (int j = 0; j < words_a_document; ++j) {
      document += std::string(words.at(static_cast<size_t>(random.integer(8)))) + " ";
    }
    text += fmt::format("{{\"text\":\"{}\",\"meta\":{{\"redpajama_set_name\":\"{}\"}}}}\n",
                        document, sources.at(static_cast<size_t>(i) % sources.size()));
  }
  return text;
}

constexpr const char* tiny_config = R"(
run: {name: tiny}
model: {vocabulary: 257, hidden: 32, layers: 2, heads: 2, slots: 16, intermediate: 64}
data: {train: shards/train, validation: shards/validation, sequence_length: 32}
train: {tokens: 12800, batch_tokens: 256, micro_batch: 2, validate_every: 25}
optimizer: {lr: 1e-2}
schedule: {warmup_tokens: 1000, final_lr: 1e-3}
distributed: {device: cpu, threads: 1, timeout: 60}
checkpoint: {every: 0}
log: {level: info}
)";

}  // namespace

Workplace::Workplace() {
  std::string pattern = (std::filesystem::temp_directory_path() / "gsa-run-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("no temporary folder can be made: " + pattern);
  }
  path_ = pattern;
  constexpr int train_documents = 60;
  constexpr int validation_documents = 6;
  write("train.jsonl", made_up_text(1, train_documents));
  write("validation.jsonl", made_up_text(2, validation_documents));
  write("tiny.yaml", tiny_config);
  for (const char* split : {"train", "validation"}) {
    const Outcome made = gsa(fmt::format("tokenize {0}.jsonl -o shards/{0} -t bytes", split));
    if (made.exit_code != 0) {
      throw std::runtime_error(made.output);
    }
  }
}

Workplace::~Workplace() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void Workplace::write(const std::string& name, const std::string& text) const {
  std::ofstream file(path_ / name);
  file << text;
}

Outcome Workplace::shell(const std::string& command) const {
  const std::string whole = fmt::format("exec 2>&1; cd '{}'; gsa() {{ '{}' \"$@\"; }}; {}",
                                        path_.string(), program(), command);
  std::FILE* pipe = popen(whole.c_str(), "r");  // NOLINT: the shell is what is wanted
  if (pipe == nullptr) {
    throw std::runtime_error("cannot run " + whole);
  }
  Outcome outcome;
  std::array<char, 4096> block{};
  size_t count = 0;
  while ((count = std::fread(block.data(), 1, block.size(), pipe)) > 0) {
    outcome.output.append(block.data(), count);
  }
  const int status = pclose(pipe);
  constexpr int signal_base = 128;
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : signal_base + WTERMSIG(status);
  return outcome;
}

Outcome Workplace::gsa(const std::string& arguments) const {
  return shell("gsa " + arguments);
}

Outcome Workplace::ranks(int count, const std::string& arguments) const {
  return shell(fmt::format(
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to "
      "none -n {} '{}' {}",
      count, program(), arguments));
}

std::vector<StepMetrics> Workplace::metrics(const std::string& run) const {
  std::vector<StepMetrics> steps = read_metrics(path_ / "runs" / run / "metrics.jsonl");
  for (StepMetrics& step : steps) {
    step.timing = {};
  }
  return steps;
}

std::vector<float> Workplace::state(const std::string& run, int64_t step) const {
  const auto checkpoint = path_ / "runs" / run / "checkpoints" / fmt::format("step-{:08d}", step);
  const std::vector<CheckpointParameter> parameters = read_parameters(checkpoint);
  std::vector<CheckpointRange> ranges;
  int64_t total = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    int64_t count = 1;
    for (const int64_t dim : parameters[i].shape) {
      count *= dim;
    }
    ranges.push_back({.parameter = i, .begin = 0, .end = count, .offset = total});
    total += count;
  }
  const auto size = static_cast<size_t>(total);
  std::vector<float> values(3 * size);
  const std::span<float> all(values);
  read_checkpoint(checkpoint, {.parameters = parameters,
                               .ranges = ranges,
                               .master = all.subspan(0, size),
                               .first_moment = all.subspan(size, size),
                               .second_moment = all.subspan(2 * size, size)});
  return values;
}

double loss_difference(const std::vector<StepMetrics>& a, const std::vector<StepMetrics>& b) {
  if (a.size() != b.size() || a.empty()) {
    return std::numeric_limits<double>::infinity();
  }
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i].loss / b[i].loss - 1));
  }
  return largest;
}

}  // namespace gsa::test
