// Targets of trainer/.
#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "tests/fuzz/support.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/model_file.h"
#include "trainer/checkpoint/rank_file.h"
#include "trainer/config/config.h"
#include "trainer/config/error.h"
#include "trainer/metrics/events.h"
#include "trainer/metrics/metrics.h"
#include "trainer/product_choices.h"

namespace gsa::fuzz {

void config(Bytes bytes) {
  try {
    const Config read = parse_config(std::string(text_of(bytes)), "fuzzed.yaml");
    const std::string text = to_yaml(read);
    require(to_yaml(parse_config(text, "resolved.yaml")) == text,
            "a resolved configuration reads back to itself");
    try {
      const BatchPlan plan = resolve_batch(read, 8);
      require(plan.steps >= 1 && plan.accumulation >= 1, "a plan has steps");
    } catch (const ConfigError&) {
    }
  } catch (const ConfigError&) {
  }
}

void metrics(Bytes bytes) {
  std::istringstream lines{std::string(text_of(bytes))};
  for (std::string line; std::getline(lines, line);) {
    try {
      const std::string written = to_json_line(from_json_line(line));
      require(to_json_line(from_json_line(written)) == written, "metrics read back to themselves");
    } catch (const std::runtime_error&) {
    }
    try {
      const std::string written = to_json_line(event_from_json_line(line));
      require(to_json_line(event_from_json_line(written)) == written,
              "events read back to themselves");
    } catch (const std::runtime_error&) {
    }
  }
}

void manifest(Bytes bytes) {
  // The last line but one is the checksum of those before it: made right, so that they are read.
  std::string text(text_of(bytes));
  const std::string last = "  \"xxh3\": ";
  const size_t at = text.rfind(last);
  if (at != std::string::npos) {
    text.resize(at);
    text += last + "\"" + text_checksum(text) + "\"\n}\n";
  }
  try {
    const Manifest read = parse_manifest(text, "manifest.json");
    require(read.files.size() == static_cast<size_t>(read.metadata.ranks) + 1,
            "the files are the ranks' and the model");
    require(manifest_text(read) == text, "a manifest is read as it was written");
    int64_t elements = 0;
    for (const int64_t count : element_counts(read.parameters)) {
      elements += count;
    }
    require(elements > 0, "parameters can be counted");
  } catch (const CheckpointError&) {
  }
}

void products(Bytes bytes) {
  const ProductChoices read = parse_product_choices(std::string(text_of(bytes)));
  require(parse_product_choices(gsa::text_of(read)) == read, "choices read back to themselves");
}

void rank_file(Bytes bytes) {
  // First where its parts are, as the manifest would say; the rest is the file.
  std::array<int64_t, 3 + flat_buffers.size()> places{};
  if (bytes.size() < sizeof(places)) {
    return;
  }
  std::memcpy(places.data(), bytes.data(), sizeof(places));
  RankFileParts parts{
      .elements = places[0], .rows = places[1], .ranges = static_cast<uint64_t>(places[2])};
  std::copy(places.begin() + 3, places.end(), parts.buffers.begin());
  const auto path = scratch_file("rank-0000.h5", bytes.subspan(sizeof(places)));

  const std::vector<CheckpointParameter> parameters{{"a", {3, 2}}, {"b", {5}}};
  const std::vector<int64_t> counts{6, 5};
  const std::vector<CheckpointRange> ranges{{0, 0, 6, 0}, {1, 0, 5, 6}};
  std::vector<float> values(3 * 11);
  const std::span<float> all(values);
  try {
    const RankLayout layout = read_rank_layout(path, parts, counts);
    for (const CheckpointRange& range : layout.ranges) {
      require(range.parameter < counts.size() && range.end <= counts[range.parameter],
              "ranges lie in their parameters");
    }
    const int64_t copied = read_rank_file(path, parts, counts,
                                          {.parameters = parameters,
                                           .ranges = ranges,
                                           .master = all.subspan(0, 11),
                                           .first_moment = all.subspan(11, 11),
                                           .second_moment = all.subspan(22, 11)});
    require(copied >= 0 && copied <= parts.elements, "elements are counted");
  } catch (const CheckpointError&) {
  }
}

}  // namespace gsa::fuzz
