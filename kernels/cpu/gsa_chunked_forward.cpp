// The chunked form, forward. See gsa_chunked.h for the way it goes.
#include <algorithm>

#include "kernels/backends.h"
#include "kernels/cpu/gsa_activations.h"
#include "kernels/cpu/gsa_chunked.h"

namespace gsa::kernels::cpu {
namespace {

// One tile of one query head: reads the states before the tile.
template <typename T>
class TileForward {
 public:
  TileForward(const GsaInputs<T>& in, const ForwardTargets<T>& targets,
              const ForwardScratch<T>& scratch)
      : in_(in), targets_(targets), scratch_(scratch) {}

  void run(const Tile& tile, int64_t head) const {
    read_keys(tile, head);
    const int64_t slots = in_.sizes.slots;
    for (int64_t t = 0; t < tile.length; ++t) {
      attend(tile, head, t);
    }
    if (!targets_.output) {
      return;
    }
    const Result<T> output{targets_.output.at(tile.first, head), targets_.output.stride()};
    const int64_t value_dim = in_.sizes.value_dim;
    product(tile.length, value_dim, slots, Left<T>{scratch_.u, slots, 1},
            Right<T>{scratch_.value_state, value_dim}, FromZero{}, output);
    product(tile.length, value_dim, tile.length, Left<T>{scratch_.pv, gsa_tile, 1},
            Right<T>{in_.v.at(tile.first, head / in_.sizes.group), in_.v.stride()},
            FromMatrix<T>{output.data, output.row}, output);
  }

 private:
  // u from the state before the tile, and the products of q and k within the tile.
  void read_keys(const Tile& tile, int64_t head) const {
    const int64_t slots = in_.sizes.slots;
    const Left<T> q{in_.q.at(tile.first, head), in_.q.stride(), 1};
    product(tile.length, slots, in_.sizes.key_dim, q, Right<T>{scratch_.key_state, slots},
            FromZero{}, Result<T>{scratch_.u, slots});
    product(tile.length, gsa_tile, in_.sizes.key_dim, q, Right<T>{scratch_.k_turned, gsa_tile},
            FromZero{}, Result<T>{scratch_.qk, gsa_tile});
    for (int64_t i = 0; i < tile.length * slots; ++i) {
      scratch_.u[i] *= in_.scale * scratch_.gates.decay[i];
    }
    for (int64_t i = 0; i < tile.length * gsa_tile; ++i) {
      scratch_.qk[i] *= in_.scale;
    }
    std::fill_n(scratch_.pv, gsa_tile * gsa_tile, T(0));
  }

  // Token t against the tokens up to it: completes u_t, and makes of it p_t and its row of pv.
  void attend(const Tile& tile, int64_t head, int64_t t) const {
    const int64_t slots = in_.sizes.slots;
    const T* alpha = scratch_.gates.alpha + t * slots;
    T* u = scratch_.u + t * slots;
    T* own = scratch_.trace + t * slots;
    std::copy_n(scratch_.gates.write + t * slots, slots, own);
    add_scaled(slots, scratch_.qk[t * gsa_tile + t], own, u);
    for (int64_t j = 0; j < t; ++j) {
      const T weight = scratch_.qk[t * gsa_tile + j];
      T* trace = scratch_.trace + j * slots;
#pragma omp simd
      for (int64_t m = 0; m < slots; ++m) {
        trace[m] *= alpha[m];
        u[m] += weight * trace[m];
      }
    }
    if (targets_.saved != nullptr) {
      const int64_t row = (tile.first + t) * in_.sizes.query_heads + head;
      std::copy_n(u, slots, targets_.saved->u + row * slots);
    }
    if (!targets_.output) {
      return;
    }
    softmax(slots, u, u);
    for (int64_t j = 0; j <= t; ++j) {
      scratch_.pv[t * gsa_tile + j] = dot(slots, u, scratch_.trace + j * slots);
    }
    const T* decay = scratch_.gates.decay + t * slots;
#pragma omp simd
    for (int64_t m = 0; m < slots; ++m) {
      u[m] *= decay[m];
    }
  }

  const GsaInputs<T>& in_;
  const ForwardTargets<T>& targets_;
  const ForwardScratch<T>& scratch_;
};

template <typename T>
void save_states(const GsaSizes& sizes, const GsaSaved<T>& saved, int64_t chunk, int64_t set,
                 const ForwardScratch<T>& scratch) {
  const int64_t state = chunk * saved.sets + set;
  std::copy_n(scratch.key_state, sizes.key_state(), saved.key_states + state * sizes.key_state());
  std::copy_n(scratch.value_state, sizes.value_state(),
              saved.value_states + state * sizes.value_state());
}

template <typename T>
void walk_lane(const GsaInputs<T>& in, const ForwardTargets<T>& targets, const Lane& lane,
               int64_t first_chunk, const ForwardScratch<T>& scratch) {
  const GsaSizes& sizes = in.sizes;
  const int64_t first = in.offsets[lane.sequence];
  const int64_t length = in.offsets[lane.sequence + 1] - first;
  const int64_t key_offset = in.key_offset(lane.sequence, lane.first_head);
  const int64_t value_offset = in.value_offset(lane.sequence, lane.first_head);
  start_state(in.initial_key == nullptr ? nullptr : in.initial_key + key_offset, sizes.key_state(),
              scratch.key_state);
  start_state(in.initial_value == nullptr ? nullptr : in.initial_value + value_offset,
              sizes.value_state(), scratch.value_state);
  const TileForward<T> tile_forward(in, targets, scratch);
  for (int64_t i = 0; i < tiles_in(length); ++i) {
    const Tile tile = tile_of(first, length, i);
    if (targets.saved != nullptr && i % tiles_per_chunk == 0) {
      save_states(sizes, *targets.saved, first_chunk + i / tiles_per_chunk, lane.state_set,
                  scratch);
    }
    scratch.gates.compute(in, tile, lane.head);
    turn_tile(tile, sizes.key_dim, in.k.at(tile.first, lane.head), in.k.stride(), scratch.k_turned);
    for (int64_t head = lane.first_head; head < lane.last_head; ++head) {
      tile_forward.run(tile, head);
    }
    advance_states(in, scratch.gates, tile, lane.head, scratch.key_state, scratch.value_state,
                   scratch.key_state, scratch.value_state);
  }
  for (int64_t head = lane.first_head; head < lane.last_head; ++head) {
    if (targets.final_key != nullptr) {
      std::copy_n(scratch.key_state, sizes.key_state(),
                  targets.final_key + in.key_offset(lane.sequence, head));
    }
    if (targets.final_value != nullptr) {
      std::copy_n(scratch.value_state, sizes.value_state(),
                  targets.final_value + in.value_offset(lane.sequence, head));
    }
  }
}

template <typename T>
void forward(const GsaForward& args, std::byte* workspace) {
  Pieces memory(workspace);
  const int64_t* first_chunk = number_chunks(memory, args, true);
  ForwardTargets<T> targets{heads_of<T>(args.output), elements_of<T>(args.final_key_state),
                            elements_of<T>(args.final_value_state), nullptr};
  if (!args.saved) {
    walk_forward(args, targets, first_chunk, memory);
    return;
  }
  const GsaSaved<T> saved(Pieces(args.saved.as<std::byte>()), args);
  targets.saved = &saved;
  walk_forward(args, targets, first_chunk, memory);
}

template <typename T>
size_t forward_workspace(const GsaForward& args) {
  Pieces memory(nullptr);
  number_chunks(memory, args, false);
  Pieces thread(nullptr);
  const ForwardScratch<T> scratch(thread, GsaSizes(args));
  return memory.bytes() + static_cast<size_t>(scratch_threads()) * thread.bytes();
}

}  // namespace

template <typename T>
void walk_forward(const GsaForward& args, const ForwardTargets<T>& targets,
                  const int64_t* first_chunk, Pieces memory) {
  const GsaInputs<T> in(args);
  const GsaSizes& sizes = in.sizes;
  const bool shared = shares_states(args);
  Pieces measure(nullptr);
  const ForwardScratch<T> unused(measure, sizes);
  auto* scratch_memory =
      memory.take<std::byte>(scratch_threads() * static_cast<int64_t>(measure.bytes()));
  for_each_lane(sizes, shared, shared, [&](const Lane& lane, int64_t thread) {
    Pieces pieces(scratch_memory + thread * static_cast<int64_t>(measure.bytes()));
    const ForwardScratch<T> scratch(pieces, sizes);
    walk_lane(in, targets, lane, first_chunk[lane.sequence], scratch);
  });
}

template void walk_forward<float>(const GsaForward&, const ForwardTargets<float>&, const int64_t*,
                                  Pieces);
template void walk_forward<double>(const GsaForward&, const ForwardTargets<double>&, const int64_t*,
                                   Pieces);

void require_saved_bytes(const GsaForward& args) {
  const size_t wanted = cpu::gsa_chunked_saved_bytes(args);
  if (args.saved && args.saved.bytes() < wanted) {
    throw std::invalid_argument("saved must hold gsa_chunked_saved_bytes, " +
                                std::to_string(wanted) + " bytes, has " +
                                std::to_string(args.saved.bytes()));
  }
}

size_t gsa_chunked_saved_bytes(const GsaForward& args) {
  size_t bytes = 0;
  with_real_type(args.q.dtype(), "gsa_chunked_saved_bytes",
                 [&](auto zero) { bytes = GsaSaved<decltype(zero)>(Pieces(nullptr), args).bytes; });
  return bytes;
}

size_t gsa_chunked_forward_workspace(const GsaForward& args) {
  size_t bytes = 0;
  with_real_type(args.q.dtype(), "gsa_chunked_forward",
                 [&](auto zero) { bytes = forward_workspace<decltype(zero)>(args); });
  return bytes + projected_workspace(args);
}

void gsa_chunked_forward(Stream& stream, const GsaForward& args, std::byte* workspace) {
  if (args.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_chunked_forward);
    return;
  }
  with_real_type(args.q.dtype(), "gsa_chunked_forward", [&](auto zero) {
    require_saved_bytes(args);
    forward<decltype(zero)>(args, workspace);
  });
}

}  // namespace gsa::kernels::cpu
