#include "data/pair_merger.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "data/piece_boundaries.h"

namespace gsa::data {
namespace {

constexpr char32_t kSpaceSymbol = 0x2581;  // how pieces write a space
constexpr char32_t kReplacement = 0xFFFD;

/// Where the second, third, ... character of `text` begins.
std::vector<size_t> inner_boundaries(std::string_view text) {
  std::vector<size_t> places;
  for (size_t at = first_char(text).bytes; at < text.size();
       at += first_char(text.substr(at)).bytes) {
    places.push_back(at);
  }
  return places;
}

}  // namespace

std::unique_ptr<PairMerger> PairMerger::make(std::span<const VocabularyPiece> pieces) {
  using Kind = VocabularyPiece::Kind;
  std::unique_ptr<PairMerger> merger(new PairMerger);
  merger->byte_ids_.fill(kNone);
  merger->ascii_ids_.fill(kNone);
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto& piece = pieces[i];
    const auto id = static_cast<int32_t>(i);
    merger->scores_.push_back(piece.score);
    if (piece.kind == Kind::special) return nullptr;
    if (piece.kind == Kind::text && !piece.text.empty()) {
      ids.emplace(piece.text, id);
      const Utf8Char first = first_char(piece.text);
      if (first.bytes == piece.text.size()) merger->add_char(first.code, id);
    }
    for (size_t b = 0; piece.kind == Kind::byte && b < kByteValues; ++b) {
      if (piece.text == fmt::format("<0x{:02X}>", b)) merger->byte_ids_[b] = id;
    }
  }
  const auto& bytes = merger->byte_ids_;
  if (std::find(bytes.begin(), bytes.end(), kNone) != bytes.end()) return nullptr;
  if (merger->char_id(kSpaceSymbol) == kNone) return nullptr;
  for (const auto& [text, id] : ids) {
    for (size_t at = 0; at < text.size(); at += first_char(text.substr(at)).bytes) {
      if (merger->char_id(first_char(text.substr(at)).code) == kNone) return nullptr;
    }
  }
  merger->add_pairs(ids);
  return merger;
}

void PairMerger::add_char(char32_t code, int32_t id) {
  if (code == kSpaceSymbol) code = ' ';
  if (code < ascii_ids_.size()) {
    ascii_ids_[code] = id;
  } else {
    other_ids_.emplace(code, id);
  }
}

void PairMerger::add_pairs(const std::unordered_map<std::string_view, int32_t>& ids) {
  std::vector<Pair> found;
  for (const auto& [text, id] : ids) {
    for (const size_t at : inner_boundaries(text)) {
      const auto left = ids.find(text.substr(0, at));
      const auto right = ids.find(text.substr(at));
      if (left == ids.end() || right == ids.end()) continue;
      constexpr int kIdBits = 32;
      found.push_back(
          {static_cast<uint64_t>(left->second) << kIdBits | static_cast<uint64_t>(right->second),
           id});
    }
  }
  pairs_.resize(std::bit_ceil(2 * found.size() + 1));
  for (const auto& pair : found) pairs_[slot(pair.key)] = pair;
}

size_t PairMerger::slot(uint64_t key) const {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio: spreads the keys
  constexpr int kShift = 32;
  size_t at = (key * kGolden >> kShift) & (pairs_.size() - 1);
  while (pairs_[at].key != key && pairs_[at].joined != kNone) at = (at + 1) & (pairs_.size() - 1);
  return at;
}

int32_t PairMerger::char_id(char32_t code) const {
  if (code == kSpaceSymbol) code = ' ';
  if (code < ascii_ids_.size()) return ascii_ids_[code];
  const auto found = other_ids_.find(code);
  return found == other_ids_.end() ? kNone : found->second;
}

int32_t PairMerger::joined(int32_t left, int32_t right) const {
  if (left == kNone || right == kNone) return kNone;
  constexpr int kIdBits = 32;
  return pairs_[slot(static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right))].joined;
}

bool PairMerger::encode(std::string_view run, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;      // kNone: a character that is no piece
    int32_t joined;  // with the next symbol; kNone if there is no such piece
    std::string_view text;
  };
  std::array<Symbol, kMaxChars> symbols;
  size_t count = 0;
  while (!run.empty()) {
    const Utf8Char c = first_char(run);
    const bool malformed = c.code == kReplacement && c.bytes == 1;
    if (malformed || count == kMaxChars) return false;
    symbols[count++] = {char_id(c.code), kNone, run.substr(0, c.bytes)};
    run.remove_prefix(c.bytes);
  }
  for (size_t i = 0; i + 1 < count; ++i) {
    symbols[i].joined = joined(symbols[i].id, symbols[i + 1].id);
  }
  while (true) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (symbols[i].joined == kNone) continue;
      const auto score = [&](size_t at) {
        return scores_[static_cast<size_t>(symbols[at].joined)];
      };
      if (best == count || score(i) > score(best)) best = i;
    }
    if (best == count) break;
    symbols[best].id = symbols[best].joined;
    std::copy(symbols.begin() + best + 2, symbols.begin() + count, symbols.begin() + best + 1);
    --count;
    symbols[best].joined =
        best + 1 < count ? joined(symbols[best].id, symbols[best + 1].id) : kNone;
    if (best > 0) symbols[best - 1].joined = joined(symbols[best - 1].id, symbols[best].id);
  }
  ids.clear();
  for (const auto& symbol : std::span(symbols).first(count)) {
    if (symbol.id != kNone) {
      ids.push_back(symbol.id);
    } else {
      for (const char c : symbol.text) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    }
  }
  return true;
}

}  // namespace gsa::data
