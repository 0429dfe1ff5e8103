#include "tests/data/read_texts.h"

#include "data/block_reader.h"
#include "data/document_parser.h"
#include "data/tokenize_plan.h"

namespace gsa::data::test {

std::vector<std::string> read_texts(const std::vector<std::filesystem::path>& inputs,
                                    size_t limit) {
  std::vector<std::string> texts;
  size_t total = 0;
  LargeBlocks large;
  DocumentParser parser;
  for (const auto& plan : plan_shards(inputs, 1)) {
    BlockReader reader(plan.inputs, large);
    Block block;
    while (total < limit && reader.next(block)) {
      auto lines = block.text();
      while (!lines.empty()) {
        const size_t newline = lines.find('\n');
        const auto parsed = parser.parse(lines.substr(0, newline));
        lines.remove_prefix(newline == std::string_view::npos ? lines.size() : newline + 1);
        if (parsed.text.empty()) continue;
        texts.emplace_back(parsed.text);
        total += parsed.text.size();
      }
    }
  }
  return texts;
}

}  // namespace gsa::data::test
