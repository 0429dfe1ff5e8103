// What a kind of machine can do, measured: the constants from which `gsa plan` predicts a run's
// time (configs/machines/*.yaml), and the results of `gsa bench` that fill them.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace gsa {

// Bandwidth by the number of GPUs that take part, GB/s.
using BandwidthByGpus = std::map<int, double>;

struct Machine {
  std::string name;

  struct Memory {              // GiB
    double gpu = 0;            // of one GPU
    double overhead = 0;       // what a rank takes beside its plan: context, libraries
    double communication = 0;  // and with other ranks: buffers of collectives
  } memory;

  // What a GPU does in a second of each phase of a step, at training sizes. Elements are those of
  // the phase's main tensor over forward and backward together (StepWork in trainer/scaling.h).
  struct Rates {
    double products = 0;  // TFLOP/s of the matrix products, SwiGLU with them
    double gsa = 0;       // TFLOP/s of the token mixer
    double norms = 0;     // giga-elements a second, like the rest
    double loss = 0;
    double embedding = 0;
    double optimizer = 0;  // parameters of this rank's shard
    double other_ms = 0;   // a step's rest, in milliseconds
  } rates;

  struct Node {
    int gpus = 8;
    BandwidthByGpus reduce_scatter;  // bus bandwidth: bytes x (n - 1) / n over seconds
    BandwidthByGpus all_gather;
    double hop_us = 0;  // latency of each of a ring's n - 1 steps inside a node
    // Seconds that computing loses by a second of communication behind it: of copies between GPUs,
    // where these can.
    double slowdown = 0;
  } node;

  struct Network {
    double gpu_gb_s = 0;  // of one GPU's share of its node's links
    double hop_us = 0;    // latency of a ring's step to another node
    double slowdown = 0;  // the same, of NCCL's kernels
  } network;

  struct Storage {          // checkpoints, GB/s
    double node_gb_s = 0;   // that one node writes
    double total_gb_s = 0;  // that the file system takes from all nodes
  } storage;
};

// Reads a machine's constants. Throws ConfigError with file and line for an unknown key, a missing
// one and a value that is not a positive number (zero is allowed for overheads and latencies).
Machine load_machine(const std::string& path);
Machine parse_machine(const std::string& text, const std::string& source);

// As YAML that parse_machine reads back to the same values; `comments` go above it, a line each.
std::string to_yaml(const Machine& machine, const std::vector<std::string>& comments = {});

// One result of `gsa bench step|comm --json`.
struct BenchFigures {
  std::string source;                        // the file
  std::map<std::string, std::string> texts;  // "device", "config"
  std::map<std::string, double> values;      // "step_ms", "ranks", ...
  std::map<std::string, double> phases_ms;

  bool has(const std::string& name) const { return values.contains(name); }
  // Throws ConfigError, naming the file, when it is missing.
  double at(const std::string& name) const;
};

// Throws ConfigError when the file cannot be read or is no such result.
BenchFigures load_bench(const std::string& path);

}  // namespace gsa
