#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace gsa::data {

/// Remembers the token ids of short runs of text: a direct-mapped table of one cache line an entry,
/// fixed in size, a newer run taking the place of an older one with the same index. For one thread
/// at a time.
class PieceCache {
 public:
  static constexpr size_t kMaxText = 30;  ///< longest run of text kept, in bytes
  static constexpr size_t kMaxIds = 7;    ///< most ids kept for a run
  static constexpr size_t kEntries = size_t{1} << 16;

  struct alignas(64) Entry {
    std::array<int32_t, kMaxIds> ids{};
    uint8_t id_count = 0;
    uint8_t text_bytes = 0;  ///< 0: empty
    std::array<char, kMaxText> text{};
  };
  static_assert(sizeof(Entry) == 64, "an entry is one cache line");

  PieceCache() : entries_(kEntries) {}

  /// The entry that a run of text with this hash has or would have.
  Entry& entry(uint64_t hash) { return entries_[hash % kEntries]; }

  static bool holds(const Entry& entry, std::string_view text) {
    return entry.text_bytes == text.size() &&
           std::memcmp(entry.text.data(), text.data(), text.size()) == 0;
  }

  /// Puts `ids` there for `text`, unless either is too long.
  static void store(Entry& entry, std::string_view text, std::span<const int32_t> ids) {
    if (text.size() > kMaxText || ids.size() > kMaxIds) return;
    std::copy(ids.begin(), ids.end(), entry.ids.begin());
    std::copy(text.begin(), text.end(), entry.text.begin());
    entry.id_count = static_cast<uint8_t>(ids.size());
    entry.text_bytes = static_cast<uint8_t>(text.size());
  }

 private:
  std::vector<Entry> entries_;
};

}  // namespace gsa::data
