#include "trainer/checkpoint/model_file.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "trainer/checkpoint/hdf5_handles.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/rectangles.h"

namespace gsa {
namespace {

// HDF5 keeps attributes below 64 KiB; a longer text stays in the manifest alone.
constexpr size_t longest_attribute = 65'000;

// A range with the rank that holds it.
struct HeldRange {
  CheckpointRange range;
  size_t rank;
};

[[noreturn]] void uncovered(const CheckpointParameter& parameter, int64_t element,
                            const char* what) {
  throw CheckpointError("parameter " + parameter.name + ": element " + std::to_string(element) +
                        what + "; the checkpoint would not be whole");
}

// The ranges of each parameter, in order, each element once.
std::vector<std::vector<HeldRange>> by_parameter(std::span<const CheckpointParameter> parameters,
                                                 std::span<const RankLayout> layouts) {
  std::vector<std::vector<HeldRange>> held(parameters.size());
  for (size_t rank = 0; rank < layouts.size(); ++rank) {
    for (const CheckpointRange& range : layouts[rank].ranges) {
      if (range.begin < range.end) {
        held[range.parameter].push_back({range, rank});
      }
    }
  }
  const std::vector<int64_t> counts = element_counts(parameters);
  for (size_t i = 0; i < held.size(); ++i) {
    std::sort(held[i].begin(), held[i].end(),
              [](const HeldRange& a, const HeldRange& b) { return a.range.begin < b.range.begin; });
    int64_t next = 0;
    for (const HeldRange& piece : held[i]) {
      if (piece.range.begin != next) {
        uncovered(parameters[i], std::min(next, piece.range.begin),
                  piece.range.begin > next ? " is held by no rank" : " is held twice");
      }
      next = piece.range.end;
    }
    if (next != counts[i]) {
      uncovered(parameters[i], next, " is held by no rank");
    }
  }
  return held;
}

// Lays a virtual dataset of the parameter's shape over the ranks' flat datasets `source`.
void add_parameter(const Hdf5Id& group, const CheckpointParameter& parameter, const char* source,
                   std::span<const HeldRange> held, std::span<const RankLayout> layouts) {
  const std::string file = model_file_name;
  const std::string& name = parameter.name;
  const std::vector<hsize_t> dims(parameter.shape.begin(), parameter.shape.end());
  const Hdf5Id space = owned(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                             H5Sclose, file, name);
  const Hdf5Id creation = owned(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, file, name);
  // What a tool shows where a rank's file is missing must not look like a weight.
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  check_hdf5(H5Pset_fill_value(creation, H5T_NATIVE_FLOAT, &nothing), file, name);
  for (const HeldRange& piece : held) {
    const std::string rank_file = rank_file_name(static_cast<int>(piece.rank));
    const auto elements = static_cast<hsize_t>(layouts[piece.rank].elements);
    const Hdf5Id source_space =
        owned(H5Screate_simple(1, &elements, nullptr), H5Sclose, file, name);
    for (const Rectangle& part :
         rectangles_of(parameter.shape, piece.range.begin, piece.range.end)) {
      const std::vector<hsize_t> start(part.start.begin(), part.start.end());
      const std::vector<hsize_t> count(part.count.begin(), part.count.end());
      check_hdf5(
          H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
          file, name);
      const auto source_start =
          static_cast<hsize_t>(piece.range.offset + part.first - piece.range.begin);
      const auto source_count = static_cast<hsize_t>(part.size);
      check_hdf5(H5Sselect_hyperslab(source_space, H5S_SELECT_SET, &source_start, nullptr,
                                     &source_count, nullptr),
                 file, name);
      check_hdf5(H5Pset_virtual(creation, space, rank_file.c_str(), source, source_space), file,
                 name);
    }
  }
  owned(H5Dcreate2(group, name.c_str(), H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT),
        H5Dclose, file, name);
}

void add_metadata(const Hdf5Id& file, const CheckpointMetadata& metadata) {
  const std::string name = model_file_name;
  write_attribute(file, "step", metadata.step, name);
  write_attribute(file, "optimizer_step", metadata.optimizer_step, name);
  write_attribute(file, "tokens_seen", metadata.tokens_seen, name);
  write_attribute(file, "next_sample", metadata.next_sample, name);
  write_attribute(file, "seed", metadata.seed, name);
  write_attribute(file, "ranks", metadata.ranks, name);
  if (metadata.config.size() < longest_attribute) {
    write_attribute(file, "config", metadata.config, name);
  }
  for (const auto& [library, version] : metadata.versions) {
    write_attribute(file, ("version of " + library).c_str(), version, name);
  }
}

}  // namespace

std::vector<int64_t> element_counts(std::span<const CheckpointParameter> parameters) {
  std::vector<int64_t> counts;
  for (const CheckpointParameter& parameter : parameters) {
    try {
      counts.push_back(element_count(parameter.shape));
    } catch (const std::invalid_argument& error) {
      throw CheckpointError("parameter " + parameter.name + ": " + error.what());
    }
  }
  return counts;
}

std::vector<std::byte> model_image(const CheckpointMetadata& metadata,
                                   std::span<const CheckpointParameter> parameters,
                                   std::span<const RankLayout> layouts) {
  const QuietHdf5 quiet;
  const std::string name = model_file_name;
  const std::vector<std::vector<HeldRange>> held = by_parameter(parameters, layouts);
  const Hdf5Id file = create_in_memory(name);
  add_metadata(file, metadata);
  const Hdf5Id creation = owned(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, name, "groups");
  check_hdf5(H5Pset_link_creation_order(creation, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
             name, "groups");
  for (const FlatBuffer& buffer : flat_buffers) {
    const Hdf5Id group = owned(H5Gcreate2(file, buffer.group, H5P_DEFAULT, creation, H5P_DEFAULT),
                               H5Gclose, name, buffer.group);
    for (size_t i = 0; i < parameters.size(); ++i) {
      add_parameter(group, parameters[i], (std::string("/") + buffer.dataset).c_str(), held[i],
                    layouts);
    }
  }
  return image_of(file, name);
}

}  // namespace gsa
