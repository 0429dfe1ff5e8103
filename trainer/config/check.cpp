#include "trainer/config/check.h"

#include <fmt/format.h>

#include "trainer/config/error.h"
#include "trainer/config/schema.h"
#include "trainer/config/write.h"

namespace gsa {
namespace {

// The matrix instructions of the kernels work on 16 channels at a time.
constexpr int64_t kHeadDimensionMultiple = 16;

[[noreturn]] void fail(const std::string& place, const std::string& message) {
  throw ConfigError(fmt::format("{}: {}", place, message));
}

void check_rules(Config& config, const Origins& origins) {
  for (const Group& group : config_groups()) {
    for (const Key& key : group.keys) {
      std::visit(
          [&](const auto& field) {
            const auto& value = field.in(config);
            for (const auto& rule : field.rules) {
              if (rule.holds(value)) continue;
              fail(origins.place({key.qualified()}),
                   fmt::format("{} must be {} (got {})", key.qualified(), rule.text,
                               value_text(value)));
            }
          },
          key.field);
    }
  }
}

void check_heads(const ModelConfig& model, const Origins& origins) {
  const std::string& place = origins.place({"model.heads", "model.hidden", "model.kv_heads"});
  if (model.hidden % model.heads != 0) {
    fail(place, fmt::format("model.hidden must be a multiple of model.heads (got {} and {})",
                            model.hidden, model.heads));
  }
  const int64_t head_dimension = model.hidden / model.heads;
  if (head_dimension % kHeadDimensionMultiple != 0) {
    fail(place, fmt::format("the head dimension, model.hidden / model.heads, must be a multiple of "
                            "{} (got {} / {} = {})",
                            kHeadDimensionMultiple, model.hidden, model.heads, head_dimension));
  }
  if (model.heads % model.resolved_kv_heads() != 0) {
    fail(origins.place({"model.kv_heads", "model.heads"}),
         fmt::format("model.heads must be a multiple of model.kv_heads (got {} and {})",
                     model.heads, model.resolved_kv_heads()));
  }
}

void check_schedule(const Config& config, const Origins& origins) {
  const ScheduleConfig& schedule = config.schedule;
  if (schedule.warmup_tokens > config.train.tokens) {
    fail(origins.place({"schedule.warmup_tokens", "train.tokens"}),
         fmt::format("schedule.warmup_tokens must not be more than train.tokens (got {} and {})",
                     schedule.warmup_tokens, config.train.tokens));
  }
  if (schedule.kind != "constant" && schedule.final_lr > config.optimizer.lr) {
    fail(origins.place({"schedule.final_lr", "optimizer.lr"}),
         fmt::format("schedule.final_lr must not be more than optimizer.lr (got {} and {})",
                     schedule.final_lr, config.optimizer.lr));
  }
  if (schedule.kind != "wsd") return;
  if (schedule.decay_tokens == 0) {
    fail(origins.place({"schedule.kind"}),
         "schedule.kind wsd needs schedule.decay_tokens, the length of the final decay");
  }
  if (schedule.decay_tokens > config.train.tokens - schedule.warmup_tokens) {
    fail(origins.place({"schedule.decay_tokens", "train.tokens"}),
         fmt::format("schedule.warmup_tokens and schedule.decay_tokens together must not be more "
                     "than train.tokens (got {}, {} and {})",
                     schedule.warmup_tokens, schedule.decay_tokens, config.train.tokens));
  }
}

}  // namespace

const std::string& Origins::place(std::initializer_list<std::string> keys) const {
  for (const std::string& key : keys) {
    if (const auto found = places_.find(key); found != places_.end()) return found->second;
  }
  return source_;
}

void check_config(const Config& config, const Origins& origins) {
  if (!origins.given("train.tokens")) {
    fail(origins.source(), "train.tokens is required: the tokens to train on in all, such as 100B");
  }
  Config reachable = config;  // fields give mutable access; nothing here writes
  check_rules(reachable, origins);
  check_heads(config.model, origins);
  check_schedule(config, origins);
  if (config.train.validate_every > 0 && config.data.validation.empty()) {
    fail(origins.place({"train.validate_every"}),
         "train.validate_every needs data.validation, a folder of validation shards");
  }
  if (config.precision.compute == "bf16" && config.distributed.device == "cpu") {
    fail(origins.place({"precision.compute", "distributed.device"}),
         "precision.compute bf16 needs distributed.device cuda; use float32 on a cpu");
  }
}

}  // namespace gsa
