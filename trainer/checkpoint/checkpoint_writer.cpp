#include "trainer/checkpoint/checkpoint_writer.h"

#include <stdexcept>
#include <thread>
#include <utility>

#include "trainer/checkpoint/stages.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

constexpr int64_t flat_buffer_count = 3;  // master weights and two moments

std::span<float> values_of(const Tensor& tensor) {
  return {tensor.as<float>(), static_cast<size_t>(tensor.count())};
}

}  // namespace

size_t CheckpointWriter::snapshot_bytes(int64_t elements) {
  return static_cast<size_t>(flat_buffer_count * elements) * sizeof(float);
}

CheckpointWriter::CheckpointWriter(Communicator& communicator, fs::path directory, Buffer memory,
                                   std::vector<CheckpointParameter> parameters,
                                   std::vector<CheckpointRange> ranges, int64_t elements,
                                   RetentionRules retention)
    : communicator_(&communicator),
      directory_(std::move(directory)),
      parameters_(std::move(parameters)),
      ranges_(std::move(ranges)),
      elements_(elements),
      retention_(retention),
      memory_(std::move(memory)) {}

CheckpointWriter::~CheckpointWriter() = default;

CheckpointWriter::Snapshot CheckpointWriter::snapshot() const {
  const auto part = [this](int64_t index) {
    return memory_.tensor(DType::float32, {elements_},
                          static_cast<size_t>(index * elements_) * sizeof(float));
  };
  return {part(0), part(1), part(2)};
}

void CheckpointWriter::start(const CheckpointMetadata& metadata,
                             std::function<void()> wait_for_snapshot) {
  if (busy()) {
    throw std::logic_error("a checkpoint is being written; finish it before the next");
  }
  const Snapshot memory = snapshot();
  const CheckpointShard shard{parameters_, ranges_, values_of(memory.master),
                              values_of(memory.first_moment), values_of(memory.second_moment)};
  const auto apply_rules = [directory = directory_, rules = retention_] {
    apply_retention(directory, rules.keep, rules.keep_every);
  };
  writing_ = std::make_unique<CheckpointWrite>(*communicator_, directory_, metadata, shard,
                                               std::move(wait_for_snapshot), apply_rules);
}

std::optional<fs::path> CheckpointWriter::poll() {
  if (!busy()) {
    return std::nullopt;
  }
  try {
    if (!writing_->advance()) {
      return std::nullopt;
    }
  } catch (const CheckpointError&) {
    writing_.reset();
    throw;
  }
  const fs::path folder = writing_->folder();
  writing_.reset();
  return folder;
}

std::optional<fs::path> CheckpointWriter::finish() {
  std::optional<fs::path> folder;
  while (busy()) {
    folder = poll();
    if (!folder) {
      std::this_thread::sleep_for(wait_between_polls);
    }
  }
  return folder;
}

}  // namespace gsa
