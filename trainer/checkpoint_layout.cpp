#include "trainer/checkpoint_layout.h"

#include "kernels/optimizer.h"

namespace gsa {
namespace {

std::vector<CheckpointParameter> names_and_shapes(const ParameterStore& parameters) {
  std::vector<CheckpointParameter> all;
  for (const ParameterInfo& info : parameters.parameters()) {
    CheckpointParameter parameter{.name = info.name, .shape = {}};
    for (int i = 0; i < info.shape.rank(); ++i) {
      parameter.shape.push_back(info.shape[i]);
    }
    all.push_back(std::move(parameter));
  }
  return all;
}

}  // namespace

CheckpointLayout::CheckpointLayout(const ParameterStore& parameters, const ShardedAdamW& optimizer)
    : parameters_(names_and_shapes(parameters)), count_(optimizer.shard_count()) {
  for (const ShardRange& range : optimizer.ranges()) {
    ranges_.push_back({.parameter = range.parameter,
                       .begin = range.begin,
                       .end = range.end,
                       .offset = range.offset});
  }
}

CheckpointLayout::CheckpointLayout(const ParameterStore& parameters)
    : parameters_(names_and_shapes(parameters)), count_(parameters.flat_count()) {
  const auto& infos = parameters.parameters();
  for (size_t i = 0; i < infos.size(); ++i) {
    ranges_.push_back(
        {.parameter = i, .begin = 0, .end = infos[i].shape.count(), .offset = infos[i].offset});
  }
}

CheckpointShard CheckpointLayout::shard(std::span<float> master, std::span<float> first,
                                        std::span<float> second) const {
  return {.parameters = parameters_,
          .ranges = ranges_,
          .master = master,
          .first_moment = first,
          .second_moment = second};
}

void load_weights(const std::filesystem::path& checkpoint, ParameterStore& parameters,
                  Stream& stream) {
  const CheckpointLayout layout(parameters);
  std::vector<float> values(static_cast<size_t>(layout.count()), 0.0F);
  read_checkpoint(checkpoint, layout.shard(values));
  // Bucket by bucket: the float32 copy on the device is small beside the weights.
  for (int bucket = 0; bucket < parameters.buckets(); ++bucket) {
    const Tensor weights = parameters.bucket_weights(bucket);
    const Buffer staging(parameters.device(), static_cast<size_t>(weights.count()) * sizeof(float));
    const Tensor floats = staging.tensor(DType::float32, {weights.count()});
    copy(stream,
         {values.data() + parameters.bucket_offset(bucket),
          DType::float32,
          Device::cpu,
          {weights.count()}},
         floats);
    kernels::convert(stream, {.input = floats, .output = weights});
    stream.synchronize();
  }
}

}  // namespace gsa
