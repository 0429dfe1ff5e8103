// The nearest known name to a misspelt one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gsa {

// Edits (insert, delete, replace, swap neighbours) that turn `a` into `b`, upper and lower case
// alike.
size_t edit_distance(std::string_view a, std::string_view b);

// The candidate fewest edits away from `name`; empty when none is near enough to be meant (more
// than a third of the name's letters, and more than two).
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace gsa
