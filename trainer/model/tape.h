// The memory of a training step: one arena, used as a stack from both ends.
//
// From the bottom grows what forward keeps for backward: `allocate` takes memory, `push` puts a
// tensor on the tape, and backward pops tensors in the opposite order. Frames give the memory back:
// what was allocated since `begin_frame` is free again after `end_frame`. From the top grows
// scratch memory, which lives as long as its `Scratch` scope. Nothing is allocated from the system
// inside a step, and the peak of a step is known before it runs: a *planning* tape has no memory
// and only measures (see Stream::planning).
//
// Backward frees what was kept from the last block to the first, and in the same order gradients
// come into being. So they may lie where that was: the *tail*, which ends below the scratch memory
// and is claimed downwards, piece by piece, as the stack shrinks away from it.
//
//   | kept for backward, growing -> | ...free... | <- claimed tail: gradients | <- scratch |
#pragma once

#include <vector>

#include "kernels/device.h"

namespace gsa {

// What an arena must hold, as a planning tape measured it.
struct ArenaSize {
  size_t without_tail = 0;         // stack and scratch together, while no tail is claimed
  size_t stack_and_tail = 0;       // together, while one is
  size_t scratch_beside_tail = 0;  // while one is: the tail ends that far below the arena's end

  size_t bytes() const;
  // The least that holds both.
  ArenaSize with(const ArenaSize& other) const;
  bool operator==(const ArenaSize&) const = default;
};

class Tape final : public ScratchMemory {
 public:
  // An arena of that size on the device.
  Tape(Device device, const ArenaSize& size);
  Tape(Device device, size_t bytes) : Tape(device, ArenaSize{.without_tail = bytes}) {}
  // An arena without memory and without limit that measures.
  static Tape planning(Device device);

  Device device() const { return device_; }
  // Memory that stays until its frame ends. Throws std::logic_error if the arena was planned too
  // small: an error of the program, not of its user.
  Tensor allocate(DType dtype, Shape shape);

  void push(const Tensor& tensor) { entries_.push_back(tensor); }
  Tensor pop();

  void begin_frame() { frames_.push_back({bottom_, entries_.size()}); }
  void end_frame();  // frees what was allocated and forgets what was pushed since begin_frame

  // Scratch memory from the top for as long as the scope lives; scopes nest.
  class Scratch {
   public:
    explicit Scratch(Tape& tape) : tape_(tape), top_(tape.top_) {}
    ~Scratch() { tape_.top_ = top_; }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    Tensor tensor(DType dtype, Shape shape);

   private:
    Tape& tape_;
    size_t top_;
  };

  std::byte* lend(size_t bytes) override;
  void give_back(size_t bytes) override;

  // The last `bytes` of the tail are in use from now on, until it is released; a smaller claim than
  // the one before changes nothing. What was there is lost.
  void claim_tail(size_t bytes);
  void release_tail() { claimed_ = 0; }
  std::byte* tail_end() const { return base_ + capacity_ - size_.scratch_beside_tail; }

  // The most that was in use.
  const ArenaSize& peak() const { return peak_; }
  size_t capacity() const { return capacity_; }

 private:
  explicit Tape(Device device);
  struct Frame {
    size_t bottom;
    size_t entries;
  };
  static size_t round_up(size_t bytes);
  void note_use();

  Device device_;
  ArenaSize size_;
  Buffer memory_;
  std::byte* base_ = nullptr;
  size_t capacity_ = 0;
  size_t bottom_ = 0;   // bytes used from the start
  size_t top_ = 0;      // bytes used from the end
  size_t claimed_ = 0;  // of the tail
  ArenaSize peak_;
  std::vector<Tensor> entries_;
  std::vector<Frame> frames_;
};

}  // namespace gsa
