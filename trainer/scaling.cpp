#include "trainer/scaling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {
namespace {

constexpr double giga = 1e9;
constexpr double tera = 1e12;
constexpr double micro = 1e-6;
constexpr double milli = 1e-3;
constexpr double gib = 1024.0 * 1024.0 * 1024.0;
constexpr double checkpoint_bytes = 12;  // a parameter: master and two moments in float32

// Backward makes two products for each of forward's.
constexpr double forward_share = 1.0 / 3;

int nodes_of(const Machine& machine, int gpus) {
  return (gpus + machine.node.gpus - 1) / machine.node.gpus;
}

// The bandwidth measured with that many GPUs, or else with the next fewer.
double bandwidth_for(const BandwidthByGpus& table, int gpus) {
  const auto more = table.upper_bound(gpus);
  return more == table.begin() ? more->second : std::prev(more)->second;
}

// Seconds of computing, bucket by bucket.
struct BucketTimes {
  std::vector<double> forward;
  std::vector<double> backward;
  std::vector<double> update;
  std::vector<double> reduce;
  std::vector<double> gather;
  double micro_batch = 0;
  double other = 0;
};

double blocks_seconds(const Machine& machine, const StepWork& work) {
  const Machine::Rates& rates = machine.rates;
  return work.products_flops / (rates.products * tera) + work.mixer_flops / (rates.gsa * tera) +
         work.norm_elements / (rates.norms * giga) + work.loss_elements / (rates.loss * giga);
}

BucketTimes bucket_times(const Machine& machine, const StepWork& work, int gpus) {
  BucketTimes times;
  const double embedding = work.embedding_elements / (machine.rates.embedding * giga);
  const double rest = blocks_seconds(machine, work);
  // The first bucket is the embedding, looked up; the others' time goes by their parameters.
  const double others = work.parameters() - work.bucket_elements.front();
  for (size_t b = 0; b < work.bucket_elements.size(); ++b) {
    const double elements = work.bucket_elements[b];
    const double seconds = b == 0 ? embedding : rest * elements / others;
    times.forward.push_back(forward_share * seconds);
    times.backward.push_back(seconds - times.forward.back());
    times.update.push_back(elements / gpus / (machine.rates.optimizer * giga));
    times.reduce.push_back(collective_seconds(machine, machine.node.reduce_scatter,
                                              work.gradient_bytes * elements, gpus));
    times.gather.push_back(
        collective_seconds(machine, machine.node.all_gather, work.weight_bytes * elements, gpus));
  }
  times.micro_batch = embedding + rest;
  times.other = machine.rates.other_ms * milli;
  return times;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// The two streams of a rank as time goes by.
class Timeline {
 public:
  explicit Timeline(const BucketTimes& times)
      : times_(times), weights_ready_(times.forward.size(), 0.0), reduced_(weights_ready_) {}

  // Seconds until the step's last update; its gathering goes on behind the next step.
  double step(int64_t accumulation) {
    const double begin = compute_;
    for (size_t b = 0; b < times_.forward.size(); ++b) {
      compute_ = std::max(compute_, weights_ready_[b]) + times_.forward[b];
    }
    // What lies between the first forward and the last backward meets no communication.
    compute_ += double(accumulation - 1) * times_.micro_batch + times_.other;
    for (size_t b = times_.backward.size(); b-- > 0;) {
      compute_ += times_.backward[b];
      communicate(times_.reduce[b], reduced_[b]);
    }
    compute_ = std::max(compute_, *std::max_element(reduced_.begin(), reduced_.end()));
    for (size_t b = 0; b < times_.update.size(); ++b) {
      compute_ += times_.update[b];
      communicate(times_.gather[b], weights_ready_[b]);
    }
    return compute_ - begin;
  }

 private:
  // Queues a collective behind what has been computed.
  void communicate(double seconds, double& done) {
    communication_ = std::max(communication_, compute_) + seconds;
    done = communication_;
  }

  const BucketTimes& times_;
  std::vector<double> weights_ready_;
  std::vector<double> reduced_;
  double compute_ = 0;
  double communication_ = 0;
};

double overhead_bytes(const Machine& machine, int gpus) {
  return (machine.memory.overhead + (gpus > 1 ? machine.memory.communication : 0)) * gib;
}

}  // namespace

double StepWork::parameters() const {
  return sum(bucket_elements);
}

StepWork step_work(const Config& config, Device device, DType dtype) {
  const bool recompute = config.train.recompute == "block";
  const HostSequences sequences(config.train.micro_batch, config.data.sequence_length);
  const EngineOptions options{.device = device,
                              .dtype = dtype,
                              .keep = kept_for_backward(config.train),
                              .memory = ParameterStore::Memory::planning};
  const PassCost cost = plan_training(config.model, options, sequences.view(device));
  StepWork work;
  for (const auto& [phase, flops] : cost.flops_by_phase) {
    (phase == "products" ? work.products_flops : work.mixer_flops) += flops;
  }
  const ModelConfig& model = config.model;
  const auto tokens = double(config.train.micro_batch * config.data.sequence_length);
  // A recomputed block's forward is half of what its forward and backward take otherwise.
  const double again = recompute ? 1 + forward_share : 1;
  constexpr double norms_a_block = 3;
  work.norm_elements =
      tokens * double(model.hidden) * (norms_a_block * double(model.layers) * again + 1);
  work.loss_elements = tokens * double(model.vocabulary);
  work.embedding_elements = tokens * double(model.hidden);

  ParameterStore parameters(device, dtype, 1);
  const LanguageModel declared(model, parameters);
  parameters.allocate(ParameterStore::Memory::planning);
  for (int b = 0; b < parameters.buckets(); ++b) {
    work.bucket_elements.push_back(
        double(parameters.bucket_offset(b + 1) - parameters.bucket_offset(b)));
  }
  work.gradient_bytes = double(size_of(parameters.gradient_dtype()));
  work.weight_bytes = double(size_of(dtype));
  work.state_bytes = double(ShardedAdamW::element_bytes(dtype, parameters.gradient_dtype()));
  return work;
}

double collective_seconds(const Machine& machine, const BandwidthByGpus& bandwidth, double bytes,
                          int gpus) {
  if (gpus == 1) {
    return 0;
  }
  const int nodes = nodes_of(machine, gpus);
  double bus = bandwidth_for(bandwidth, std::min(gpus, machine.node.gpus));
  if (nodes > 1) {
    bus = std::min(bus, machine.node.gpus * machine.network.gpu_gb_s);
  }
  const double latency =
      (gpus - nodes) * machine.node.hop_us * micro + (nodes - 1) * machine.network.hop_us * micro;
  return bytes * (gpus - 1) / gpus / (bus * giga) + latency;
}

StepTime predict_step(const Machine& machine, const StepWork& work, int gpus,
                      int64_t accumulation) {
  const BucketTimes times = bucket_times(machine, work, gpus);
  Timeline timeline(times);
  timeline.step(accumulation);  // the first does not wait for weights
  const double seconds = timeline.step(accumulation);
  StepTime step;
  step.compute = double(accumulation) * times.micro_batch + sum(times.update) + times.other;
  step.communication = sum(times.reduce) + sum(times.gather);
  step.exposed = std::max(0.0, seconds - step.compute);  // but for rounding
  const double slowdown =
      nodes_of(machine, gpus) == 1 ? machine.node.slowdown : machine.network.slowdown;
  step.slowed = slowdown * std::max(0.0, step.communication - step.exposed);
  return step;
}

double checkpoint_seconds(const Machine& machine, double parameters, int gpus) {
  const Machine::Storage& storage = machine.storage;
  const double rate =
      std::min(storage.total_gb_s, nodes_of(machine, gpus) * storage.node_gb_s) * giga;
  return checkpoint_bytes * parameters / rate;
}

Config config_for_gpus(Config config, int gpus) {
  const int64_t unit = config.train.micro_batch * config.data.sequence_length * gpus;
  int64_t& batch = config.train.batch_tokens;
  if (batch % unit != 0) {
    batch = (batch / unit + 1) * unit;
  }
  return config;
}

std::vector<ScalingRow> predict_scaling(const Config& config, const Machine& machine, Device device,
                                        DType dtype, std::span<const int> gpus) {
  const StepWork work = step_work(config, device, dtype);
  std::vector<ScalingRow> rows;
  for (const int count : gpus) {
    ScalingRow row;
    row.gpus = count;
    const Config adapted = config_for_gpus(config, count);
    row.batch_grew = adapted.train.batch_tokens != config.train.batch_tokens;
    const RunPlan plan = plan_run(adapted, device, dtype, count);
    row.batch = plan.batch;
    row.memory = plan.memory;
    row.memory_bytes = double(plan.memory.total()) + overhead_bytes(machine, count);
    row.fits = row.memory_bytes <= machine.memory.gpu * gib;
    row.step = predict_step(machine, work, count, row.batch.accumulation);
    row.tokens_per_second = double(row.batch.tokens_per_step) / row.step.total();
    row.checkpoint_seconds = checkpoint_seconds(machine, double(plan.parameters), count);
    rows.push_back(row);
  }
  return rows;
}

double most_parameters(const Machine& machine, const StepWork& work, double activation_bytes,
                       int gpus) {
  const double room = machine.memory.gpu * gib - overhead_bytes(machine, gpus) - activation_bytes;
  const double each = work.weight_bytes + work.gradient_bytes + work.state_bytes / gpus;
  return std::max(0.0, room / each);
}

}  // namespace gsa
