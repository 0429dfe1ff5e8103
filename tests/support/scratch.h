// Scratch memory for operations under test, and a stream that has it.
#pragma once

#include <vector>

#include "kernels/device.h"

namespace gsa::test {

// Every loan is a buffer of its own, exactly as large as asked and filled with NaN, so that reading
// what was not written and writing past the end show (the latter under the address sanitizer).
class TestScratch : public ScratchMemory {
 public:
  std::byte* lend(size_t bytes) override;
  void give_back(size_t bytes) override;  // throws std::logic_error if it was not lent last

  size_t lent() const { return loans_.size(); }     // now
  size_t largest_loan() const { return largest_; }  // ever, in bytes

 private:
  std::vector<Buffer> loans_;
  size_t largest_ = 0;
};

// A CPU stream with scratch memory.
class TestStream {
 public:
  TestStream() : stream_(Device::cpu) { stream_.set_scratch(&scratch_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator Stream&() { return stream_; }  // NOLINT(google-explicit-constructor)
  Stream& stream() { return stream_; }
  TestScratch& scratch() { return scratch_; }

 private:
  TestScratch scratch_;
  Stream stream_;
};

// Sets the number of OpenMP threads for as long as it lives.
class ThreadCount {
 public:
  explicit ThreadCount(int threads);
  ~ThreadCount();
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace gsa::test
