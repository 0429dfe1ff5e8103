#include "trainer/validation.h"

#include <algorithm>

namespace gsa {
namespace {

// Sums by source: losses, then counts.
constexpr size_t source_count = data::kSourceCount;
constexpr size_t sum_count = 2 * source_count;

}  // namespace

Validation::Validation(const ValidationOptions& options, Session& session, Engine& engine)
    : options_(options), session_(session), engine_(engine), batch_(session.device) {
  const int64_t tokens = options.micro_batch * options.sequence_length;
  loss_memory_ = Buffer(session.device, std::max(static_cast<size_t>(tokens) * sizeof(float),
                                                 sum_count * sizeof(double)));
  losses_.resize(static_cast<size_t>(tokens));
  open();  // a split that cannot be read is found now, not after an hour
}

std::unique_ptr<data::Loader> Validation::open() const {
  data::LoaderOptions loader;
  loader.sources.push_back({options_.folder, 1.0});
  loader.sequence_length = options_.sequence_length;
  loader.micro_batch = options_.micro_batch;
  loader.rank = session_.communicator->rank();
  loader.ranks = session_.communicator->size();
  loader.vocabulary_size = static_cast<int32_t>(engine_.model().config().vocabulary);
  loader.visit = data::WindowVisit::sequential;
  loader.reset_state_at_documents = options_.reset_state_at_documents;
  return std::make_unique<data::Loader>(loader);
}

ValidationMetrics Validation::run() {
  const auto loader = open();
  const int64_t length = options_.sequence_length;
  const int64_t windows = options_.tokens == 0
                              ? loader->windows()
                              : std::clamp<int64_t>(options_.tokens / length, 1, loader->windows());
  std::vector<double> sums(sum_count, 0.0);
  const int64_t batches = loader->batches();
  for (int64_t i = 0; i < batches; ++i) {
    const data::Batch& batch = loader->next();
    if (batch.first_sample >= windows) {
      break;
    }
    const int64_t rows = std::min(options_.micro_batch, windows - batch.first_sample);
    add(batch, static_cast<size_t>(rows * length), sums);
  }
  const auto count = static_cast<int64_t>(sums.size());
  const Tensor device = loss_memory_.tensor(DType::float64, {count});
  const Tensor host(sums.data(), DType::float64, Device::cpu, {count});
  copy(engine_.stream(), host, device);
  session_.communicator->all_reduce(engine_.stream(), device);
  copy(engine_.stream(), device, host);
  engine_.stream().synchronize();
  session_.communicator->require_healthy();

  ValidationMetrics metrics;
  double loss = 0;
  double tokens = 0;
  for (size_t i = 0; i < source_count; ++i) {
    const double counted = sums[source_count + i];
    if (counted > 0) {
      metrics.sources[std::string(data::kSourceNames[i])] = sums[i] / counted;
      loss += sums[i];
      tokens += counted;
    }
  }
  metrics.loss = loss / tokens;
  return metrics;
}

void Validation::add(const data::Batch& batch, size_t count, std::vector<double>& sums) {
  Stream& stream = engine_.stream();
  batch_.upload(stream, batch);
  engine_.reserve_reading(batch_.sequences());
  Pass pass = engine_.pass(batch_.sequences());
  const Tensor losses = loss_memory_.tensor(DType::float32, {static_cast<int64_t>(losses_.size())});
  engine_.model().loss(pass, batch_.tokens(), batch_.labels(), losses);
  copy(stream, losses, {losses_.data(), DType::float32, Device::cpu, losses.shape()});
  stream.synchronize();
  for (size_t i = 0; i < count; ++i) {
    if (batch.labels[i] != data::kIgnoredLabel) {
      sums[batch.sources[i]] += double(losses_[i]);
      sums[source_count + batch.sources[i]] += 1;
    }
  }
}

}  // namespace gsa
