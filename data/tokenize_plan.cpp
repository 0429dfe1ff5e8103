#include "data/tokenize_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "data/error.h"
#include "data/input_file.h"

namespace gsa::data {
namespace {

namespace fs = std::filesystem;

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

/// The run of digits at the start of `text`, without leading zeros.
std::string_view digits_of(std::string_view text) {
  const auto* const end = std::find_if_not(text.begin(), text.end(), is_digit);
  auto digits = text.substr(0, static_cast<size_t>(end - text.begin()));
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  return digits;
}

size_t digit_count(std::string_view text) {
  return static_cast<size_t>(std::find_if_not(text.begin(), text.end(), is_digit) - text.begin());
}

void list_folder(const fs::path& folder, std::vector<InputSpec>& files) {
  std::vector<InputSpec> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || !is_input_name(entry.path())) continue;
    found.push_back({.path = entry.path(),
                     .name = entry.path().lexically_relative(folder).generic_string(),
                     .bytes = static_cast<int64_t>(entry.file_size())});
  }
  if (found.empty()) {
    throw DataError(fmt::format("{}: holds no .jsonl, .jsonl.gz or .jsonl.zst file, in any depth",
                                folder.string()));
  }
  std::sort(found.begin(), found.end(),
            [](const InputSpec& a, const InputSpec& b) { return natural_less(a.name, b.name); });
  std::move(found.begin(), found.end(), std::back_inserter(files));
}

std::vector<InputSpec> list_inputs(const std::vector<fs::path>& inputs) {
  std::vector<InputSpec> files;
  for (const auto& input : inputs) {
    if (fs::is_directory(input)) {
      list_folder(input, files);
    } else if (fs::is_regular_file(input)) {
      files.push_back({.path = input,
                       .name = input.filename().string(),
                       .bytes = static_cast<int64_t>(fs::file_size(input))});
    } else {
      throw DataError(fmt::format("{}: there is no such input file or folder", input.string()));
    }
  }
  if (files.empty()) throw DataError("no input was given: name a folder or a .jsonl file");
  return files;
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  const std::string_view whole_a = a;
  const std::string_view whole_b = b;
  while (!a.empty() && !b.empty()) {
    if (is_digit(a.front()) && is_digit(b.front())) {
      const auto x = digits_of(a);
      const auto y = digits_of(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      a.remove_prefix(digit_count(a));
      b.remove_prefix(digit_count(b));
    } else {
      if (a.front() != b.front()) return a.front() < b.front();
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  // Equal but for leading zeros: any fixed order will do.
  return a.empty() && b.empty() ? whole_a < whole_b : a.empty();
}

std::vector<ShardPlan> plan_shards(const std::vector<fs::path>& inputs,
                                   int64_t input_bytes_per_shard) {
  std::vector<ShardPlan> plans;
  for (auto& file : list_inputs(inputs)) {
    if (plans.empty() || plans.back().bytes + file.bytes > input_bytes_per_shard) {
      plans.push_back(
          {.file = fmt::format("shard-{:06}.gsa", plans.size()), .inputs = {}, .bytes = 0});
    }
    plans.back().bytes += file.bytes;
    plans.back().inputs.push_back(std::move(file));
  }
  return plans;
}

}  // namespace gsa::data
