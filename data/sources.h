#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gsa::data {

/// Where a document comes from: its index in kSourceNames, which is what shards and batches store.
using SourceId = uint8_t;

inline constexpr SourceId kUnknownSource = 0;

/// The sets of SlimPajama as `meta.redpajama_set_name` spells them, after "unknown" for all else.
/// Shards store these numbers: names may be added at the end, never moved.
inline constexpr std::array<std::string_view, 8> kSourceNames = {
    "unknown",       "RedPajamaCommonCrawl", "RedPajamaC4",        "RedPajamaGithub",
    "RedPajamaBook", "RedPajamaArXiv",       "RedPajamaWikipedia", "RedPajamaStackExchange"};

inline constexpr size_t kSourceCount = kSourceNames.size();

/// The id of a set's exact name; kUnknownSource for a name not in the table.
SourceId source_of_name(std::string_view name);

/// What was counted of one source.
struct SourceTotals {
  int64_t documents = 0;
  int64_t tokens = 0;  ///< with the end-of-sequence token of each document
  friend bool operator==(const SourceTotals&, const SourceTotals&) = default;
};

/// Totals by source, indexed by SourceId.
using TotalsBySource = std::array<SourceTotals, kSourceCount>;

}  // namespace gsa::data
