#include "tests/trainer/config/expect_error.h"

namespace gsa {
namespace {

// The refusal of one override on top of a sound configuration.
std::string refusal_of(const std::vector<std::string>& overrides) {
  return refusal("train: {tokens: 1M}\n", overrides);
}

TEST(CheckConfig, TheTokenBudgetIsRequired) {
  EXPECT_EQ(refusal("model: {slots: 64}\n"),
            "x.yaml: train.tokens is required: the tokens to train on in all, such as 100B");
  EXPECT_EQ(refusal(""), refusal("model: {slots: 64}\n"));
  EXPECT_EQ(refusal("train: {tokens: 0}\n"), "x.yaml:1: train.tokens must be at least 1 (got 0)");
}

TEST(CheckConfig, RangesAreChecked) {
  EXPECT_EQ(refusal("train: {tokens: 1M}\nmodel:\n  slots: 20\n"),
            "x.yaml:3: model.slots must be a multiple of 16 (got 20)");
  EXPECT_EQ(refusal_of({"model.slots=0"}),
            "override model.slots=0: model.slots must be a multiple of 16 (got 0)");
  EXPECT_EQ(
      refusal_of({"optimizer.beta2=1"}),
      "override optimizer.beta2=1: optimizer.beta2 must be at least 0 and less than 1 (got 1)");
  EXPECT_EQ(refusal_of({"schedule.kind=linear"}),
            "override schedule.kind=linear: schedule.kind must be cosine | wsd | constant (got "
            "\"linear\")");
  EXPECT_EQ(refusal_of({"data.train={a: 1, b: 0}"}),
            "override data.train={a: 1, b: 0}: data.train must be different folders with weights "
            "greater than 0 (got {a: 1, b: 0})");
  EXPECT_EQ(refusal_of({"train.wall_clock_limit=soon"}),
            "override train.wall_clock_limit=soon: train.wall_clock_limit must be a duration such "
            "as 90m, 23h50m or 1d12h, or empty (got \"soon\")");
  EXPECT_EQ(refusal_of({"train.spike_factor=0.5"}),
            "override train.spike_factor=0.5: train.spike_factor must be 0 or greater than 1 (got "
            "0.5)");
  for (const char* text : {"run.name=",
                           "run.name=a/b",
                           "run.name=..",
                           "run.directory=",
                           "run.seed=-1",
                           "model.mixer=",
                           "model.vocabulary=1",
                           "model.vocabulary=3B",
                           "model.hidden=0",
                           "model.hidden=-16",
                           "model.hidden=1e12",
                           "model.layers=0",
                           "model.heads=0",
                           "model.kv_heads=-1",
                           "model.intermediate=100",
                           "model.gate_logit_normalizer=0",
                           "model.norm_eps=-1",
                           "data.sequence_length=0",
                           "data.sequence_length=1T",
                           "data.prefetch=0",
                           "train.micro_batch=0",
                           "train.micro_batch=1e15",
                           "train.batch_tokens=-1",
                           "train.recompute=all",
                           "train.validate_every=-1",
                           "train.max_skipped_steps=0",
                           "optimizer.lr=0",
                           "optimizer.eps=0",
                           "optimizer.clip=-1",
                           "precision.compute=fp8",
                           "distributed.device=tpu",
                           "distributed.timeout=0",
                           "checkpoint.every=-1",
                           "checkpoint.keep=-1",
                           "log.every=0",
                           "log.level=loud",
                           "data.train={a: -1}",
                           "data.train={a: 1, a: 2}"}) {
    const std::string message = refusal_of({text});
    EXPECT_TRUE(message.starts_with(std::string("override ") + text + ": ")) << text << message;
    EXPECT_NE(message.find(" must be "), std::string::npos) << message;
  }
}

TEST(CheckConfig, HeadsDivide) {
  EXPECT_EQ(
      refusal_of({"model.heads=3"}),
      "override model.heads=3: model.hidden must be a multiple of model.heads (got 1024 and 3)");
  EXPECT_EQ(refusal_of({"model.hidden=96"}),
            "override model.hidden=96: the head dimension, model.hidden / model.heads, must be a "
            "multiple of 16 (got 96 / 4 = 24)");
  EXPECT_EQ(
      refusal_of({"model.kv_heads=3"}),
      "override model.kv_heads=3: model.heads must be a multiple of model.kv_heads (got 4 and "
      "3)");
  EXPECT_EQ(refusal_of({"model.heads=32", "model.kv_heads=8"}), "");
}

TEST(CheckConfig, TheScheduleFitsTheBudget) {
  EXPECT_EQ(refusal_of({"schedule.warmup_tokens=2M"}),
            "override schedule.warmup_tokens=2M: schedule.warmup_tokens must not be more than "
            "train.tokens (got 2000000 and 1000000)");
  EXPECT_EQ(
      refusal_of({"schedule.final_lr=1"}),
      "override schedule.final_lr=1: schedule.final_lr must not be more than optimizer.lr (got "
      "1 and 0.0003)");
  EXPECT_EQ(refusal_of({"schedule.kind=wsd"}),
            "override schedule.kind=wsd: schedule.kind wsd needs schedule.decay_tokens, the length "
            "of the final decay");
  EXPECT_NE(refusal_of(
                {"schedule.kind=wsd", "schedule.decay_tokens=0.8M", "schedule.warmup_tokens=0.3M"}),
            "");
  EXPECT_EQ(refusal_of(
                {"schedule.kind=wsd", "schedule.decay_tokens=0.7M", "schedule.warmup_tokens=0.3M"}),
            "");
}

TEST(CheckConfig, KeysThatNeedOthersSaySo) {
  EXPECT_EQ(
      refusal_of({"train.validate_every=10"}),
      "override train.validate_every=10: train.validate_every needs data.validation, a folder "
      "of validation shards");
  EXPECT_EQ(refusal_of({"train.validate_every=10", "data.validation=v"}), "");
  EXPECT_EQ(
      refusal_of({"distributed.device=cpu", "precision.compute=bf16"}),
      "override precision.compute=bf16: precision.compute bf16 needs distributed.device cuda; "
      "use float32 on a cpu");
}

}  // namespace
}  // namespace gsa
