#include "trainer/loader_options.h"

namespace gsa {

data::LoaderOptions loader_options(const Config& config, const Communicator& communicator,
                                   const BatchPlan& plan, int64_t start_sample) {
  data::LoaderOptions options;
  for (const auto& [path, weight] : config.data.train) {
    options.sources.push_back({path, weight});
  }
  options.sequence_length = config.data.sequence_length;
  options.micro_batch = config.train.micro_batch;
  options.accumulation = plan.accumulation;
  options.rank = communicator.rank();
  options.ranks = communicator.size();
  options.vocabulary_size = static_cast<int32_t>(config.model.vocabulary);
  options.seed = static_cast<uint64_t>(config.run.seed);
  options.start_sample = start_sample;
  options.reset_state_at_documents = config.data.reset_state_at_documents;
  options.prefetch = static_cast<int>(config.data.prefetch);
  return options;
}

ValidationOptions validation_options(const Config& config) {
  return {.folder = config.data.validation,
          .sequence_length = config.data.sequence_length,
          .micro_batch = config.train.micro_batch,
          .tokens = config.train.validation_tokens,
          .reset_state_at_documents = config.data.reset_state_at_documents};
}

}  // namespace gsa
