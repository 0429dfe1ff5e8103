// How long a step takes on how many GPUs, predicted from a machine's constants: `gsa plan`.
//
// A step is, for each micro-batch, forward and backward bucket by bucket, then the optimizer. The
// collectives run on a stream of their own, as ShardedAdamW queues them: a bucket's reduce-scatter
// when the last micro-batch's backward has left it, its all-gather when its part is updated, which
// the next step's forward awaits. The prediction walks through that timeline; what computing waits
// for is the exposed communication, and what runs behind computing slows it by a measured share.
//
// A ring over n GPUs moves bytes x (n - 1) / n at the bus bandwidth: the node's own, or where it is
// less what the node's links to others carry, all GPUs' shares together. Each of its n - 1 steps
// adds a latency, of which those between nodes are longer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trainer/config/machine.h"
#include "trainer/plan.h"

namespace gsa {

// What one micro-batch and one update do, on any number of GPUs.
struct StepWork {
  double products_flops = 0;  // forward, backward and what is recomputed; SwiGLU goes with them
  double mixer_flops = 0;
  double norm_elements = 0;             // tokens x hidden, of every norm
  double loss_elements = 0;             // tokens x vocabulary
  double embedding_elements = 0;        // tokens x hidden
  std::vector<double> bucket_elements;  // parameters, in the order of first use
  double gradient_bytes = 0;            // of an element, as it is reduced
  double weight_bytes = 0;              // and as it is gathered
  double state_bytes = 0;               // of a parameter's master and moments on the device

  double parameters() const;
};

StepWork step_work(const Config& config, Device device, DType dtype);

// Seconds of one step.
struct StepTime {
  double compute = 0;        // with nothing else going on
  double communication = 0;  // of the collectives
  double exposed = 0;        // that computing waits for them
  double slowed = 0;         // that computing loses while they run behind it
  double total() const { return compute + exposed + slowed; }
};

StepTime predict_step(const Machine& machine, const StepWork& work, int gpus, int64_t accumulation);

// Seconds of one collective of this many bytes (of all ranks together, as reduced or gathered).
double collective_seconds(const Machine& machine, const BandwidthByGpus& bandwidth, double bytes,
                          int gpus);

// Seconds until a checkpoint (masters and moments, 12 bytes a parameter) is on the disk.
double checkpoint_seconds(const Machine& machine, double parameters, int gpus);

// `config` with train.batch_tokens raised, where it does not divide over so many GPUs, to the next
// number that does.
Config config_for_gpus(Config config, int gpus);

struct ScalingRow {
  int gpus = 1;
  BatchPlan batch;
  bool batch_grew = false;  // train.batch_tokens was raised
  MemoryPlan memory;
  double memory_bytes = 0;  // with the machine's overheads
  bool fits = true;
  StepTime step;
  double tokens_per_second = 0;
  double checkpoint_seconds = 0;
};

// A row for each number of GPUs, each with config_for_gpus.
std::vector<ScalingRow> predict_scaling(const Config& config, const Machine& machine, Device device,
                                        DType dtype, std::span<const int> gpus);

// The most parameters that ZeRO-1 holds on so many GPUs, activations being `activation_bytes`:
// weights and gradients are whole on each, masters and moments in parts.
double most_parameters(const Machine& machine, const StepWork& work, double activation_bytes,
                       int gpus);

// `machine` with what these results of `gsa bench step|comm` of `config` measured: rates and
// overhead from a step on one GPU, which must be among them; bandwidths from comm; slowdowns and
// communication memory from steps on several, those of nodes by copies if there are any, those of
// networks by NCCL (the result's "transport"). Throws ConfigError for results of another model.
Machine calibrate(Machine machine, const Config& config, Device device, DType dtype,
                  const std::vector<BenchFigures>& results);

}  // namespace gsa
