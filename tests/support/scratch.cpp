#include "tests/support/scratch.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace gsa::test {
namespace {

constexpr int all_ones = 0xFF;  // every float of these bytes is NaN

}  // namespace

std::byte* TestScratch::lend(size_t bytes) {
  loans_.emplace_back(Device::cpu, bytes);
  largest_ = std::max(largest_, bytes);
  if (bytes > 0) {
    std::memset(loans_.back().data(), all_ones, bytes);
  }
  return loans_.back().data();
}

void TestScratch::give_back(size_t bytes) {
  if (loans_.empty() || loans_.back().bytes() != bytes) {
    throw std::logic_error("scratch memory was given back that was not lent last");
  }
  loans_.pop_back();
}

ThreadCount::ThreadCount(int threads) : before_(omp_get_max_threads()) {
  omp_set_num_threads(threads);
}

ThreadCount::~ThreadCount() {
  omp_set_num_threads(before_);
}

}  // namespace gsa::test
