#include "trainer/config/schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "trainer/config/values.h"

namespace gsa {
namespace {

// Limits that keep every product of sizes inside int64_t, far above what anyone trains.
constexpr int64_t kLargestVocabulary = 2'147'483'647;  // token ids have 4 bytes in a shard
constexpr int64_t kLargestWidth = 1 << 20;
constexpr int64_t kLargestLength = 1 << 24;
constexpr int64_t kLargestMicroBatch = 1 << 16;
constexpr int64_t kLargestLayers = 10'000;
constexpr int64_t kLargestThreads = 4'096;
constexpr int64_t kLargestPrefetch = 1'024;
constexpr int64_t kLargestWindow = 10'000;
constexpr double kLargestTimeout = 7.0 * 24 * 3600;  // a week, in seconds
constexpr int64_t kSlotMultiple = 16;                // the kernels' sub-tile of slots
constexpr int64_t kWidthMultiple = 16;               // the matrix products' alignment

Rule<int64_t> at_least(int64_t low) {
  return {fmt::format("at least {}", low), [=](int64_t value) { return value >= low; }};
}

Rule<int64_t> between(int64_t low, int64_t high) {
  return {fmt::format("from {} to {}", low, high),
          [=](int64_t value) { return value >= low && value <= high; }};
}

Rule<int64_t> at_most(int64_t high) {
  return {fmt::format("at most {}", high), [=](int64_t value) { return value <= high; }};
}

Rule<int64_t> multiple_of(int64_t unit) {
  return {fmt::format("a multiple of {}", unit),
          [=](int64_t value) { return value >= unit && value % unit == 0; }};
}

Rule<int64_t> zero_or_multiple_of(int64_t unit) {
  return {fmt::format("0 or a multiple of {}", unit),
          [=](int64_t value) { return value >= 0 && value % unit == 0; }};
}

Rule<double> above_zero() {
  return {"greater than 0", [](double value) { return value > 0; }};
}

Rule<double> not_negative() {
  return {"0 or greater", [](double value) { return value >= 0; }};
}

Rule<double> zero_or_above(double low) {
  return {fmt::format("0 or greater than {}", low),
          [=](double value) { return value == 0 || value > low; }};
}

Rule<double> fraction() {
  return {"at least 0 and less than 1", [](double value) { return value >= 0 && value < 1; }};
}

Rule<double> above_zero_to(double high) {
  return {fmt::format("greater than 0 and at most {}", high),
          [=](double value) { return value > 0 && value <= high; }};
}

Rule<std::string> one_of(const std::vector<std::string>& choices) {
  return {fmt::format("{}", fmt::join(choices, " | ")), [=](const std::string& value) {
            return std::find(choices.begin(), choices.end(), value) != choices.end();
          }};
}

Rule<std::string> not_empty() {
  return {"a name, not empty", [](const std::string& value) { return !value.empty(); }};
}

Rule<std::string> duration_or_empty() {
  return {"a duration such as 90m, 23h50m or 1d12h, or empty", [](const std::string& value) {
            return value.empty() || parse_duration(value).has_value();
          }};
}

// The run's name becomes a folder: one path component that any file system takes.
Rule<std::string> folder_name() {
  return {"made of letters, digits and . _ - (it names a folder)", [](const std::string& value) {
            const auto plain = [](char c) {
              return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '_' || c == '-';
            };
            return !value.empty() && value != "." && value != ".." &&
                   std::all_of(value.begin(), value.end(), plain);
          }};
}

Rule<Mixture> weighted_folders() {
  return {"different folders with weights greater than 0", [](const Mixture& mixture) {
            std::set<std::string> seen;
            return std::all_of(mixture.begin(), mixture.end(), [&](const auto& entry) {
              return !entry.first.empty() && entry.second > 0 && seen.insert(entry.first).second;
            });
          }};
}

// One group's struct inside Config, from which its keys are made.
template <class G>
struct Section {
  std::string name;
  G Config::*group;

  template <class T, class... Rules>
  Key key(std::string key_name, T G::*member, std::string description, Rules... rules) const {
    auto in = [g = group, member](Config& config) -> T& { return config.*g.*member; };
    return {name, std::move(key_name), std::move(description),
            Field<T>{in, {Rule<T>(std::move(rules))...}}};
  }
};

Group run_group() {
  const Section<RunConfig> run{"run", &Config::run};
  using C = RunConfig;
  return {"run",
          "what the run is called and where it lies: its folder is directory/name",
          {
              run.key("name", &C::name, "name of the run", folder_name()),
              run.key("directory", &C::directory, "folder that holds the runs", not_empty()),
              run.key("seed", &C::seed, "seed of initial weights and data order", at_least(0)),
          }};
}

Group model_group() {
  const Section<ModelConfig> model{"model", &Config::model};
  using C = ModelConfig;
  return {
      "model",
      "the language model's sizes; the head dimension is hidden / heads",
      {
          model.key("mixer", &C::mixer, "token mixer of every block", not_empty()),
          model.key("vocabulary", &C::vocabulary, "pieces of the tokenizer",
                    between(2, kLargestVocabulary)),
          model.key("hidden", &C::hidden, "hidden size D", multiple_of(kWidthMultiple),
                    at_most(kLargestWidth)),
          model.key("layers", &C::layers, "blocks L", between(1, kLargestLayers)),
          model.key("heads", &C::heads, "query heads", between(1, kLargestWidth)),
          model.key("kv_heads", &C::kv_heads, "key/value heads; 0: as many as heads",
                    between(0, kLargestWidth)),
          model.key("slots", &C::slots, "slots M of each head's memory", multiple_of(kSlotMultiple),
                    at_most(kLargestWidth)),
          model.key("intermediate", &C::intermediate,
                    "width of the gated linear unit; 0: 8/3 hidden, rounded up to 256",
                    zero_or_multiple_of(kWidthMultiple), at_most(kLargestWidth)),
          model.key("gate_logit_normalizer", &C::gate_logit_normalizer,
                    "divisor of the forget gates' log sigmoid; larger: gates nearer to 1",
                    above_zero()),
          model.key("norm_eps", &C::norm_eps, "epsilon of the RMS norms", above_zero()),
          model.key("g_norm_eps", &C::g_norm_eps,
                    "epsilon of the norm before the mixer's output projection", above_zero()),
          model.key("elementwise_affine", &C::elementwise_affine, "whether that norm has a weight"),
          model.key("tie_embeddings", &C::tie_embeddings,
                    "use the embedding as the output projection too"),
          model.key("init_std", &C::init_std, "standard deviation of initial matrices",
                    not_negative()),
      }};
}

Group data_group() {
  const Section<DataConfig> data{"data", &Config::data};
  using C = DataConfig;
  return {"data",
          "token shards, as gsa tokenize writes them",
          {
              data.key("train", &C::train, "shard folder, or a map of shard folders to weights",
                       weighted_folders()),
              data.key("validation", &C::validation, "shard folder; \"\": no validation"),
              data.key("sequence_length", &C::sequence_length, "tokens a sequence T",
                       between(1, kLargestLength)),
              data.key("reset_state_at_documents", &C::reset_state_at_documents,
                       "start the recurrent state anew at each document"),
              data.key("prefetch", &C::prefetch, "batches kept ready ahead of the device",
                       between(1, kLargestPrefetch)),
          }};
}

Group train_group() {
  const Section<TrainConfig> train{"train", &Config::train};
  using C = TrainConfig;
  return {
      "train",
      "how much to train, and in what portions",
      {
          train.key("tokens", &C::tokens, "tokens to train on in all; required", at_least(1)),
          train.key("batch_tokens", &C::batch_tokens,
                    "tokens a step over all ranks; 0: one micro-batch a rank", at_least(0)),
          train.key("micro_batch", &C::micro_batch,
                    "sequences a rank runs forward and backward at once",
                    between(1, kLargestMicroBatch)),
          train.key("recompute", &C::recompute,
                    "block: keep a block's input only and run its forward again in backward; "
                    "norms: keep all but the norms' outputs",
                    one_of({"none", "norms", "block"})),
          train.key("validate_every", &C::validate_every, "steps between validations; 0: never",
                    at_least(0)),
          train.key("validation_tokens", &C::validation_tokens,
                    "tokens a validation reads; 0: the whole split", at_least(0)),
          train.key("stop_after_steps", &C::stop_after_steps,
                    "stop with a checkpoint after so many steps of this start; 0: do not",
                    at_least(0)),
          train.key("max_skipped_steps", &C::max_skipped_steps,
                    "skipped steps in a row (a loss or gradient that is not finite, a spike) that "
                    "end the run",
                    at_least(1)),
          train.key("spike_factor", &C::spike_factor,
                    "skip a step whose loss is above so many times the median of the last "
                    "spike_window losses; 0: do not",
                    zero_or_above(1)),
          train.key("spike_window", &C::spike_window,
                    "losses in that median; the check begins when there are so many",
                    between(1, kLargestWindow)),
          train.key("wall_clock_limit", &C::wall_clock_limit,
                    "checkpoint and stop (exit code 75) before the program has run so long, such "
                    "as 23h50m; \"\": no limit",
                    duration_or_empty()),
      }};
}

Group optimizer_group() {
  const Section<OptimizerConfig> optimizer{"optimizer", &Config::optimizer};
  using C = OptimizerConfig;
  return {"optimizer",
          "AdamW; weight decay is decoupled and acts on matrices",
          {
              optimizer.key("lr", &C::lr, "peak learning rate", above_zero()),
              optimizer.key("beta1", &C::beta1, "decay of the first moment", fraction()),
              optimizer.key("beta2", &C::beta2, "decay of the second moment", fraction()),
              optimizer.key("eps", &C::eps, "added to the root of the second moment", above_zero()),
              optimizer.key("weight_decay", &C::weight_decay, "weight decay", not_negative()),
              optimizer.key("clip", &C::clip, "largest global gradient norm; 0: no clipping",
                            not_negative()),
          }};
}

Group schedule_group() {
  const Section<ScheduleConfig> schedule{"schedule", &Config::schedule};
  using C = ScheduleConfig;
  return {"schedule",
          "the learning rate over tokens",
          {
              schedule.key("kind", &C::kind, "wsd: warm-up, stable, decay",
                           one_of({"cosine", "wsd", "constant"})),
              schedule.key("warmup_tokens", &C::warmup_tokens,
                           "tokens over which the rate rises from 0 to optimizer.lr", at_least(0)),
              schedule.key("final_lr", &C::final_lr,
                           "rate at the end of the budget (cosine and wsd)", not_negative()),
              schedule.key("decay_tokens", &C::decay_tokens,
                           "wsd: tokens of the final decay to final_lr", at_least(0)),
          }};
}

Group device_group() {
  const Section<DistributedConfig> distributed{"distributed", &Config::distributed};
  using C = DistributedConfig;
  return {
      "distributed",
      "devices and communication",
      {
          distributed.key("device", &C::device, "auto: cuda where build and machine have it",
                          one_of({"auto", "cpu", "cuda"})),
          distributed.key("threads", &C::threads,
                          "CPU threads a rank; 0: the machine's cores over its ranks",
                          between(0, kLargestThreads)),
          distributed.key("timeout", &C::timeout,
                          "seconds that a collective may take before the run is given up",
                          above_zero_to(kLargestTimeout)),
          distributed.key("check_weights_every", &C::check_weights_every,
                          "steps between comparisons of all ranks' weights; 0: never", at_least(0)),
      }};
}

Group precision_group() {
  const Section<PrecisionConfig> precision{"precision", &Config::precision};
  return {"precision",
          "what the device computes in; masters and AdamW state are float32",
          {precision.key("compute", &PrecisionConfig::compute, "auto: bf16 on cuda, float32 on cpu",
                         one_of({"auto", "bf16", "float32"}))}};
}

Group checkpoint_group() {
  const Section<CheckpointConfig> checkpoint{"checkpoint", &Config::checkpoint};
  using C = CheckpointConfig;
  return {
      "checkpoint",
      "when checkpoints are written, and how many stay",
      {
          checkpoint.key("every", &C::every, "steps between checkpoints; 0: only at the end",
                         at_least(0)),
          checkpoint.key("keep", &C::keep, "newest checkpoints kept; 0: all", at_least(0)),
          checkpoint.key("keep_every", &C::keep_every,
                         "keep those at multiples of so many steps for ever; 0: none", at_least(0)),
      }};
}

Group log_group() {
  const Section<LogConfig> log{"log", &Config::log};
  return {"log",
          "what is written to the terminal",
          {
              log.key("every", &LogConfig::every, "steps between lines", at_least(1)),
              log.key("level", &LogConfig::level, "least severe messages shown",
                      one_of({"debug", "info", "warning", "error"})),
          }};
}

}  // namespace

const std::vector<Group>& config_groups() {
  static const std::vector<Group> groups = {
      run_group(),      model_group(),     data_group(),   train_group(),      optimizer_group(),
      schedule_group(), precision_group(), device_group(), checkpoint_group(), log_group()};
  return groups;
}

TypeText type_text(const std::string&) {
  return {"text", "text"};
}
TypeText type_text(int64_t) {
  return {"count", "a count: a whole number such as 64, 16K, 0.5M, 100B or 1e9, at most 1e18"};
}
TypeText type_text(double) {
  return {"number", "a number such as 0.1 or 3e-4"};
}
TypeText type_text(bool) {
  return {"true/false", "true or false"};
}
TypeText type_text(const Mixture&) {
  return {"folder(s)", "a folder, or a map of folders to weights such as {a: 0.7, b: 0.3}"};
}

}  // namespace gsa
