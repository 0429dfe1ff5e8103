// model.h5: the whole model by name and shape, as virtual datasets over the rank files, for other
// tools: this program does not read it. For this folder only.
//
//   /parameters/NAME, /first_moment/NAME, /second_moment/NAME   float32, the parameter's shape
//   attributes of the file: the metadata
#pragma once

#include <cstddef>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/rank_file.h"

namespace gsa {

// The file's bytes. Throws CheckpointError unless the ranks' parts (`layouts`, in rank order) hold
// every element of every parameter exactly once.
std::vector<std::byte> model_image(const CheckpointMetadata& metadata,
                                   std::span<const CheckpointParameter> parameters,
                                   std::span<const RankLayout> layouts);

// Elements of each parameter.
std::vector<int64_t> element_counts(std::span<const CheckpointParameter> parameters);

}  // namespace gsa
