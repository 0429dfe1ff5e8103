// What a step measured, and the file that keeps it: metrics.jsonl, one JSON object a line.
//
// A line holds first what two identical runs agree on to the bit, and then, in a nested object,
// what depends on the machine and the moment:
//
//   {"step":12,"tokens_seen":49152,"loss":6.91,"learning_rate":0.0003,"gradient_norm":1.7,
//    "validation":{"loss":6.8,"sources":{"RedPajamaC4":6.7}},
//    "timing":{"seconds":0.8,"tokens_per_second":5120,"tflops":0.1,"memory_gib":0.4,
//              "host_gib":0.4,"data_wait_ms":0.02}}
//
// Numbers are written so that they read back to the same bits; one that is not finite is null.
// Fields whose value is not known are left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/metrics/line_file.h"

namespace gsa {

// Loss on held-out text, in nats a token: over all of it, and by source.
struct ValidationMetrics {
  double loss = 0;
  std::map<std::string, double> sources;

  bool operator==(const ValidationMetrics&) const = default;
};

// Speed and use of the machine. Rates are over all ranks, memory is of the fullest rank.
struct StepTiming {
  double seconds = 0;  // wall time of the step
  double tokens_per_second = 0;
  double data_wait_ms = 0;              // time that the step waited for its batches
  std::optional<double> tflops;         // 1e12 model operations a second
  std::optional<double> share_of_peak;  // of the devices' matrix peak: 0 to 1
  std::optional<double> memory_gib;     // of the device; on the CPU the process's peak
  std::optional<double> host_gib;       // what rank 0's process holds now

  bool operator==(const StepTiming&) const = default;
};

struct StepMetrics {
  int64_t step = 0;                             // 1 for the first
  int64_t tokens_seen = 0;                      // at the end of the step, over all ranks
  double loss = 0;                              // nats a token, mean over the step's counted tokens
  double learning_rate = 0;                     // that the step used
  double gradient_norm = 0;                     // global, before clipping
  bool skipped = false;                         // nothing was changed; written where it is so
  std::optional<ValidationMetrics> validation;  // where the step ended with a validation
  StepTiming timing;

  bool operator==(const StepMetrics&) const = default;
};

// The line of one step, without its newline.
std::string to_json_line(const StepMetrics& metrics);

// The step that a line of metrics.jsonl tells of. Throws std::runtime_error naming what is wrong.
StepMetrics from_json_line(const std::string& line);

// Appends to a metrics.jsonl. Not copyable; one writer a file at a time (rank 0's).
class MetricsWriter {
 public:
  // Opens or creates `path` for a run that goes on after `last_step` (0: a new run). Lines of later
  // steps and what is no whole line (torn by a crash) are dropped: the file is rewritten to a
  // temporary one beside it, which then replaces it in one move. Throws std::system_error with the
  // path when it cannot be read or written.
  explicit MetricsWriter(const std::filesystem::path& path, int64_t last_step = 0);

  // Appends one line. Throws std::system_error (such as: no space left on device); the line is kept
  // for the next time then, see LineFile.
  void write(const StepMetrics& metrics);

  // Waits until all lines are on the disk. Called when a checkpoint is made, it keeps the lines up
  // to that checkpoint through a power failure.
  void sync();

 private:
  LineFile file_;
};

// Every step of a metrics.jsonl, in the file's order; a torn last line is left out. Throws
// std::runtime_error with the path and the line's number for any other line that cannot be read,
// and std::system_error when the file cannot.
std::vector<StepMetrics> read_metrics(const std::filesystem::path& path);

}  // namespace gsa
