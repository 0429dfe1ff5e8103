#include "trainer/model/tape.h"

#include <algorithm>

namespace gsa {
namespace {

constexpr size_t alignment = 256;
// Addresses of a planning tape: never read, only told apart from "absent".
constexpr size_t planning_capacity = size_t{1} << 50;
const auto planning_base = reinterpret_cast<std::byte*>(size_t{1} << 12);  // NOLINT

}  // namespace

Tape::Tape(Device device) : device_(device) {}

Tape::Tape(Device device, size_t bytes)
    : device_(device), memory_(device, round_up(bytes)), base_(memory_.data()) {
  capacity_ = round_up(bytes);
}

Tape Tape::planning(Device device) {
  Tape tape(device);
  tape.base_ = planning_base;
  tape.capacity_ = planning_capacity;
  return tape;
}

size_t Tape::round_up(size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

void Tape::note_use() {
  peak_ = std::max(peak_, bottom_ + top_);
  if (bottom_ + top_ > capacity_) {
    throw std::logic_error(
        "a step needs more memory than was planned for it: " + std::to_string(bottom_ + top_) +
        " of " + std::to_string(capacity_) + " bytes");
  }
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
