// Runs the program `gsa` as a user does, in a folder of its own, and reads what it left.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/metrics/metrics.h"

namespace gsa::test {

struct Outcome {
  int exit_code = 0;
  std::string output;  // stdout and stderr
};

// A fresh folder with shards of made-up text (byte tokenizer) under `shards`, and a small
// configuration `tiny.yaml`; removed at the end.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const;

  // A shell command run in the folder; `gsa` stands for the program.
  Outcome shell(const std::string& command) const;
  // `gsa ARGUMENTS`, alone or under mpirun.
  Outcome gsa(const std::string& arguments) const;
  Outcome ranks(int count, const std::string& arguments) const;

  // The metrics of a run without what depends on the clock.
  std::vector<StepMetrics> metrics(const std::string& run) const;
  // All masters and moments of a run's checkpoint, by parameter.
  std::vector<float> state(const std::string& run, int64_t step) const;

 private:
  std::filesystem::path path_;
};

// The largest |a/b - 1| of the steps' losses.
double loss_difference(const std::vector<StepMetrics>& a, const std::vector<StepMetrics>& b);

}  // namespace gsa::test
