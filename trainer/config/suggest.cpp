#include "trainer/config/suggest.h"

#include <algorithm>
#include <cctype>
#include <numeric>

namespace gsa {
namespace {

// Names longer than this are not worth a suggestion; the bound keeps hostile input cheap.
constexpr size_t kLongestName = 64;
constexpr size_t kAlwaysNear = 2;
constexpr size_t kLettersAnEdit = 3;

bool same_letter(char a, char b) {
  return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  // Optimal string alignment, row by row: `before` and `last` are the two rows above `row`.
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (same_letter(a[i - 1], b[j - 1]) ? 0 : 1);
      row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
      const bool swapped =
          i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]);
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  if (name.size() > kLongestName) return "";
  size_t fewest = std::max(kAlwaysNear, name.size() / kLettersAnEdit) + 1;
  std::string best;
  for (const std::string& candidate : candidates) {
    // A change of every letter is no misspelling, however short the names are.
    const size_t edits = edit_distance(name, candidate);
    if (edits < fewest && edits < std::min(name.size(), candidate.size())) {
      fewest = edits;
      best = candidate;
    }
  }
  return best;
}

}  // namespace gsa
