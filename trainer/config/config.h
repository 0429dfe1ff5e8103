// The typed configuration of a run: one struct a YAML group, one member a key.
//
// A configuration is a YAML file with the groups below; every key has a type and a default, and an
// unknown or misspelt key is an error that names file, line and the nearest known key. Counts take
// suffixes (`100B`, `0.5M`, `1e9`). `key=value` on the command line overrides a key of the file
// (`optimizer.lr=2e-4`). The resolved configuration is written beside the run it made.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gsa {

// `run`: what the run is called and where it lies. The run's folder is `directory/name`.
struct RunConfig {
  std::string name = "run";
  std::string directory = "runs";
  int64_t seed = 1;
};

// `model`: sizes as in arXiv 2409.07146. Zero for a derived value means "derive it".
struct ModelConfig {
  std::string mixer = "gsa";  // token mixer; the registry in trainer/model/mixer.h lists the names
  int64_t vocabulary = 32000;
  int64_t hidden = 1024;
  int64_t layers = 24;
  int64_t heads = 4;                   // query heads H_q
  int64_t kv_heads = 0;                // key/value heads H; 0: as many as `heads`
  int64_t slots = 64;                  // M
  int64_t intermediate = 0;            // GLU width; 0: 256 * ceil((2/3 * 4 * hidden) / 256)
  double gate_logit_normalizer = 8.0;  // tau
  double norm_eps = 1e-6;
  double g_norm_eps = 1e-5;        // the norm before the mixer's output projection
  bool elementwise_affine = true;  // whether that norm has a weight
  bool tie_embeddings = false;
  double init_std = 0.02;

  int64_t resolved_kv_heads() const { return kv_heads == 0 ? heads : kv_heads; }
  int64_t resolved_intermediate() const;
};

// `data`: token shards. `train` maps a shard folder to its weight in the mixture.
struct DataConfig {
  std::vector<std::pair<std::string, double>> train;  // folder (with index.json) -> weight
  std::string validation;                             // folder, or empty for none
  int64_t sequence_length = 2048;                     // T; a window is T+1 tokens
  bool reset_state_at_documents = false;
  int64_t prefetch = 4;  // batches kept ahead of the device
};

// `train`: how much, and in what portions. One step is `batch_tokens` tokens over all ranks.
struct TrainConfig {
  int64_t tokens = 0;  // the token budget (required)
  int64_t batch_tokens =
      0;  // tokens a step over all ranks; 0: micro_batch x sequence_length x ranks
  int64_t micro_batch = 8;         // sequences one rank runs forward and backward at once
  std::string recompute = "none";  // none | norms | block
  int64_t validate_every = 0;      // steps; 0: never
  int64_t validation_tokens = 0;   // tokens a validation; 0: the whole split
  int64_t stop_after_steps = 0;    // stop with a checkpoint after that many steps of this start
  int64_t max_skipped_steps = 10;  // in a row, before the run is given up
  double spike_factor = 0;         // skip steps whose loss is above this times the median; 0: none
  int64_t spike_window = 100;      // losses of which that is the median
  std::string wall_clock_limit;    // such as 23h50m, for one start; empty: none
};

// `optimizer`: AdamW with decoupled weight decay on matrices.
struct OptimizerConfig {
  double lr = 3e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip = 1.0;  // global gradient norm; 0: no clipping
};

// `schedule`: the learning rate over tokens (trainer/optimizer/schedule.h).
struct ScheduleConfig {
  std::string kind = "cosine";  // cosine | wsd (warmup, stable, decay) | constant
  int64_t warmup_tokens = 0;
  double final_lr = 0.0;     // at the end of the budget
  int64_t decay_tokens = 0;  // wsd: length of the final decay
};

// `precision`: what the device computes in. Masters, gradients and AdamW state are float32.
struct PrecisionConfig {
  std::string compute = "auto";  // auto (bf16 on cuda, float32 on cpu) | bf16 | float32
};

// `distributed`: devices and communication.
struct DistributedConfig {
  std::string device = "auto";      // auto | cpu | cuda
  int64_t threads = 0;              // CPU threads a rank; 0: the machine's cores over its ranks
  double timeout = 600;             // seconds a collective may take
  int64_t check_weights_every = 0;  // steps between comparisons of the ranks' weights; 0: never
};

// `checkpoint`: when, and how many are kept.
struct CheckpointConfig {
  int64_t every = 1000;    // steps; 0: only at the end
  int64_t keep = 3;        // newest ones kept; 0: all
  int64_t keep_every = 0;  // steps whose multiples are kept for ever; 0: none
};

// `log`: what is written while training.
struct LogConfig {
  int64_t every = 1;           // steps between lines on the terminal
  std::string level = "info";  // debug | info | warning | error
};

struct Config {
  RunConfig run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  PrecisionConfig precision;
  DistributedConfig distributed;
  CheckpointConfig checkpoint;
  LogConfig log;
};

// Reads `path`, applies `overrides` ("group.key=value", later ones win) and checks every value.
// Throws ConfigError (trainer/config/error.h) with file, line, the key and the remedy.
Config load_config(const std::string& path, const std::vector<std::string>& overrides = {});

// The same from YAML text; `source` is the name that messages give it.
Config parse_config(const std::string& text, const std::string& source,
                    const std::vector<std::string>& overrides = {});

// The whole configuration as YAML that parse_config reads back to the same values, to the bit.
std::string to_yaml(const Config& config);

// Every key with its type, default, description and constraint: Markdown, a table a group, aligned
// so that it reads on a terminal too.
std::string config_reference();

// How the batch of one step splits over ranks and micro-batches, and how many steps the budget is.
struct BatchPlan {
  int64_t accumulation = 1;     // micro-batches a rank runs before an update
  int64_t tokens_per_step = 0;  // accumulation x micro_batch x sequence_length x ranks
  int64_t steps = 0;            // the first number of steps that reaches train.tokens
};

// The plan for `ranks` ranks (at least 1). Throws ConfigError, naming the nearest batch_tokens that
// would do, when train.batch_tokens is no multiple of micro_batch x sequence_length x ranks.
BatchPlan resolve_batch(const Config& config, int ranks);

}  // namespace gsa
