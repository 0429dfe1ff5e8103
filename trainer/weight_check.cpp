#include "trainer/weight_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>

#include "kernels/checksum.h"

namespace gsa {
namespace {

constexpr int words_a_sum = 2;

// The value that most ranks have; among equally frequent ones the owner's, else the smallest.
uint64_t right_sum(const std::vector<std::vector<uint64_t>>& sums, size_t owner) {
  std::map<uint64_t, int> votes;
  for (const std::vector<uint64_t>& found : sums) {
    ++votes[found[owner]];
  }
  uint64_t best = sums[owner][owner];
  for (const auto& [sum, count] : votes) {
    if (count > votes[best]) {
      best = sum;
    }
  }
  return best;
}

}  // namespace

std::vector<int> drifted_ranks(const std::vector<std::vector<uint64_t>>& sums) {
  std::set<int> drifted;
  for (size_t owner = 0; owner < sums.size(); ++owner) {
    const uint64_t right = right_sum(sums, owner);
    for (size_t rank = 0; rank < sums.size(); ++rank) {
      if (sums[rank][owner] != right) {
        drifted.insert(static_cast<int>(rank));
      }
    }
  }
  return {drifted.begin(), drifted.end()};
}

WeightCheck::WeightCheck(const ParameterStore& parameters, Communicator& communicator)
    : parameters_(parameters),
      communicator_(communicator),
      sums_memory_(parameters.device(),
                   static_cast<size_t>(communicator.size()) * sizeof(uint64_t)),
      host_memory_(parameters.device(), sums_memory_.bytes(), MemoryKind::pinned) {}

void WeightCheck::run(Stream& stream, int64_t step) {
  const int ranks = communicator_.size();
  const Tensor sums = sums_memory_.tensor(DType::int32, {ranks, words_a_sum});
  fill_zero(stream, sums);
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    const Tensor weights = parameters_.bucket_weights(bucket);
    const int64_t part = weights.count() / ranks;
    for (int owner = 0; owner < ranks; ++owner) {
      kernels::checksum(stream, {.input = weights.rows(owner * part, (owner + 1) * part),
                                 .position = parameters_.bucket_offset(bucket) + owner * part,
                                 .sum = sums.rows(owner, owner + 1).reshape({words_a_sum})});
    }
  }
  const Tensor host = host_memory_.tensor(DType::int32, {ranks, words_a_sum});
  copy(stream, sums, host);
  stream.synchronize();
  const std::string own(static_cast<const char*>(host.data()), host.bytes());
  std::vector<std::vector<uint64_t>> all;
  for (const std::string& text : communicator_.all_gather_text(own)) {
    std::vector<uint64_t>& found = all.emplace_back(static_cast<size_t>(ranks));
    std::memcpy(found.data(), text.data(), std::min(text.size(), found.size() * sizeof(uint64_t)));
  }
  const std::vector<int> drifted = drifted_ranks(all);
  if (!drifted.empty()) {
    throw std::runtime_error(fmt::format(
        "after step {} the weights of {} {} are not those of the other ranks: suspect its GPU, "
        "memory or network, take its machine out and start again with --resume auto",
        step, drifted.size() == 1 ? "rank" : "ranks", fmt::join(drifted, ", ")));
  }
}

}  // namespace gsa
