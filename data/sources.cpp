#include "data/sources.h"

#include <algorithm>

namespace gsa::data {

SourceId source_of_name(std::string_view name) {
  const auto* const found = std::find(kSourceNames.begin(), kSourceNames.end(), name);
  return found == kSourceNames.end() ? kUnknownSource
                                     : static_cast<SourceId>(found - kSourceNames.begin());
}

}  // namespace gsa::data
