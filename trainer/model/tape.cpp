#include "trainer/model/tape.h"

#include <algorithm>

namespace gsa {
namespace {

constexpr size_t alignment = 256;
// Addresses of a planning tape: never read, only told apart from "absent".
constexpr size_t planning_capacity = size_t{1} << 50;
// Scratch memory beside a tail, at least: for what is done with gradients after the pass.
constexpr size_t least_beside_tail = size_t{1} << 20;
const auto planning_base = reinterpret_cast<std::byte*>(size_t{1} << 12);  // NOLINT

}  // namespace

size_t ArenaSize::bytes() const {
  return std::max(without_tail, stack_and_tail + scratch_beside_tail);
}

ArenaSize ArenaSize::with(const ArenaSize& other) const {
  return {.without_tail = std::max(without_tail, other.without_tail),
          .stack_and_tail = std::max(stack_and_tail, other.stack_and_tail),
          .scratch_beside_tail = std::max(scratch_beside_tail, other.scratch_beside_tail)};
}

Tape::Tape(Device device) : device_(device) {}

Tape::Tape(Device device, const ArenaSize& size)
    : device_(device),
      size_(size),
      memory_(device, round_up(size.bytes())),
      base_(memory_.data()),
      capacity_(round_up(size.bytes())) {}

Tape Tape::planning(Device device) {
  Tape tape(device);
  tape.base_ = planning_base;
  tape.capacity_ = planning_capacity;
  tape.size_.scratch_beside_tail = planning_capacity / 2;
  return tape;
}

size_t Tape::round_up(size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

void Tape::note_use() {
  const bool tail = claimed_ > 0;
  const size_t below = tail ? bottom_ + claimed_ : bottom_;
  const size_t above = tail ? size_.scratch_beside_tail : top_;
  peak_ = peak_.with(tail ? ArenaSize{.stack_and_tail = below,
                                      .scratch_beside_tail = std::max(top_, least_beside_tail)}
                          : ArenaSize{.without_tail = below + above});
  if (below + above > capacity_ || top_ > above) {
    throw std::logic_error(
        "a step needs more memory than was planned for it: " + std::to_string(below) + " and " +
        std::to_string(top_) + " of " + std::to_string(capacity_) + " bytes");
  }
}

void Tape::claim_tail(size_t bytes) {
  claimed_ = std::max(claimed_, bytes);
  note_use();
}

Tensor Tape::allocate(DType dtype, Shape shape) {
  const size_t offset = bottom_;
  bottom_ += round_up(static_cast<size_t>(shape.count()) * size_of(dtype));
  note_use();
  return {base_ + offset, dtype, device_, shape};
}

Tensor Tape::pop() {
  if (entries_.empty()) {
    throw std::logic_error("backward pops more from the tape than forward pushed");
  }
  const Tensor tensor = entries_.back();
  entries_.pop_back();
  return tensor;
}

void Tape::end_frame() {
  const Frame frame = frames_.back();
  frames_.pop_back();
  if (entries_.size() < frame.entries) {
    throw std::logic_error("backward popped tensors of a frame that it does not own");
  }
  entries_.resize(frame.entries);
  bottom_ = frame.bottom;
}

Tensor Tape::Scratch::tensor(DType dtype, Shape shape) {
  return {tape_.lend(static_cast<size_t>(shape.count()) * size_of(dtype)), dtype, tape_.device_,
          shape};
}

std::byte* Tape::lend(size_t bytes) {
  top_ += round_up(bytes);
  note_use();
  return base_ + (capacity_ - top_);
}

void Tape::give_back(size_t bytes) {
  top_ -= round_up(bytes);
}

}  // namespace gsa
