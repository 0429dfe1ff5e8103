#include <gtest/gtest.h>

#include <algorithm>

#include "data/block_reader.h"
#include "data/document_parser.h"
#include "data/error.h"
#include "data/input_file.h"
#include "data/tokenize_plan.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 5;

/// All text of a group of files, block by block, and the problems met.
struct ReadText {
  std::string text;
  ProblemList problems;
};

ReadText read_all(const std::vector<InputSpec>& files, const BlockLimits& limits) {
  ReadText all;
  LargeBlocks large;
  BlockReader reader(files, large, limits);
  Block block;
  int64_t line = 1;
  size_t file = 0;
  while (reader.next(block)) {
    if (block.file != file) line = 1;
    file = block.file;
    EXPECT_EQ(block.first_line, line);
    all.text += block.text();
    line += std::count(block.text().begin(), block.text().end(), '\n') +
            block.problems.count(Problem::line_too_long);
    all.problems.add(block.problems);
  }
  return all;
}

std::vector<InputSpec> specs(const TempFolder& folder, const std::vector<std::string>& names) {
  std::vector<InputSpec> files;
  files.reserve(names.size());
  for (const auto& name : names) {
    files.push_back({.path = folder / name,
                     .name = name,
                     .bytes = static_cast<int64_t>(std::filesystem::file_size(folder / name))});
  }
  return files;
}

std::string parse_kind(std::string line) {
  line.append(kLinePadding, '\0');
  DocumentParser parser;
  const auto parsed = parser.parse(std::string_view(line).substr(0, line.size() - kLinePadding));
  const auto kind = parsed.problem ? std::string(problem_name(*parsed.problem)) : "good";
  return kind + " " + std::string(kSourceNames[parsed.source]) + " " + std::string(parsed.text);
}

TEST(NaturalOrder, NumbersCompareAsNumbers) {
  const std::vector<std::string> ordered = {"chunk1/example_2",  "chunk1/example_10", "chunk2/a",
                                            "chunk9/example_10", "chunk10/a",         "chunk010/b",
                                            "chunk10/c",         "chunk10x",          "d"};
  for (size_t i = 0; i < ordered.size(); ++i) {
    for (size_t j = 0; j < ordered.size(); ++j) {
      EXPECT_EQ(natural_less(ordered[i], ordered[j]), i < j) << ordered[i] << " " << ordered[j];
    }
  }
}

TEST(InputFile, AllFormsGiveTheSameText) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  const auto text = to_jsonl(random_documents(random, 200, 100));
  for (const std::string name : {"a.jsonl", "b.jsonl.gz", "c.jsonl.zst"}) {
    write_input(folder / name, text);
    EXPECT_TRUE(is_input_name(folder / name));
    for (const size_t block : {1000U, 1U << 20}) {
      EXPECT_EQ(read_all(specs(folder, {name}), {.block = block}).text, text) << name;
    }
  }
  // Several frames or members in one file are one text.
  const auto half = text.find('\n', text.size() / 2) + 1;
  write_bytes(folder / "frames.jsonl.zst", zstd(text.substr(0, half)) + zstd(text.substr(half)));
  EXPECT_EQ(read_all(specs(folder, {"frames.jsonl.zst"}), {}).text, text);
  const std::string member = read_bytes(folder / "b.jsonl.gz");
  write_bytes(folder / "members.jsonl.gz", member + member);
  EXPECT_EQ(read_all(specs(folder, {"members.jsonl.gz"}), {}).text, text + text);
  EXPECT_FALSE(is_input_name("notes.txt"));
}

TEST(BlockReader, CutsAtLinesWhateverTheirLength) {
  const TempFolder folder;
  const std::string text = "ab\n" + std::string(5000, 'x') + "\n\ncd\n" + std::string(90, 'y');
  write_bytes(folder / "a.jsonl", text);
  write_bytes(folder / "b.jsonl", "second\n");
  const auto files = specs(folder, {"a.jsonl", "b.jsonl"});
  for (const size_t block : {8U, 16U, 100U, 4999U, 5004U, 1U << 16}) {
    const auto all = read_all(files, {.block = block, .large = 1 << 14, .max_line = 1 << 16});
    EXPECT_EQ(all.text, text + "second\n");
    EXPECT_EQ(all.problems.total(), 0);
  }
}

TEST(BlockReader, LeavesOutLinesThatAreTooLong) {
  const TempFolder folder;
  write_bytes(folder / "a.jsonl", "ab\n" + std::string(5000, 'x') + "\ncd\n");
  write_bytes(folder / "b.jsonl", std::string(5000, 'x'));
  const auto all = read_all(specs(folder, {"a.jsonl", "b.jsonl"}),
                            {.block = 64, .large = 256, .max_line = 1024});
  EXPECT_EQ(all.text, "ab\ncd\n");
  ASSERT_EQ(all.problems.count(Problem::line_too_long), 2);
  EXPECT_EQ(all.problems.named[0].line, 2);
  EXPECT_EQ(all.problems.named[1].file, "b.jsonl");
}

TEST(BlockReader, KeepsWholeLinesOfTornFiles) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  const auto text = to_jsonl(random_documents(random, 2000, 100));
  for (const std::string name : {"a.jsonl.zst", "b.jsonl.gz"}) {
    write_input(folder / name, text);
    const std::string packed = read_bytes(folder / name);
    std::string changed = packed;
    for (size_t i = 0; i < 16; ++i) changed[changed.size() / 2 + i] ^= 0x55;
    for (const auto& damaged : {packed.substr(0, packed.size() / 2), changed}) {
      write_bytes(folder / name, damaged);
      write_bytes(folder / "next.jsonl", "next\n");
      const auto all = read_all(specs(folder, {name, "next.jsonl"}), {.block = 4096});
      ASSERT_EQ(all.problems.count(Problem::torn_file), 1);
      const auto kept = all.text.substr(0, all.text.size() - 5);
      EXPECT_TRUE(kept.empty() || kept.back() == '\n');
      EXPECT_EQ(all.problems.named[0].line, std::count(kept.begin(), kept.end(), '\n') + 1);
      EXPECT_EQ(all.text, kept + "next\n");
    }
  }
}

TEST(BlockReader, EmptyFilesAreNoted) {
  const TempFolder folder;
  write_bytes(folder / "a.jsonl", "");
  write_bytes(folder / "b.jsonl.zst", "");
  write_bytes(folder / "c.jsonl", "text\n");
  const auto all = read_all(specs(folder, {"a.jsonl", "b.jsonl.zst", "c.jsonl"}), {});
  EXPECT_EQ(all.text, "text\n");
  EXPECT_EQ(all.problems.count(Problem::empty_file), 2);
  EXPECT_EQ(describe(all.problems.named[1]), "b.jsonl.zst: empty_file: the file holds nothing");
}

TEST(BlockReader, OneLargeBlockAtATime) {
  const TempFolder folder;
  write_bytes(folder / "a.jsonl", std::string(5000, 'x') + "\n");
  const auto files = specs(folder, {"a.jsonl"});
  LargeBlocks large;
  Block block;
  BlockReader reader(files, large, {.block = 64, .large = 256});
  ASSERT_TRUE(reader.next(block));
  EXPECT_TRUE(block.large.held());
  block.large.release();
  const LargeBlocks::Hold again(large);  // would wait for ever if it were still held
  EXPECT_TRUE(again.held());
}

TEST(DocumentParser, ReadsTextAndSource) {
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": {"redpajama_set_name": "RedPajamaBook"}})"),
            "good RedPajamaBook hi");
  EXPECT_EQ(
      parse_kind(R"({"meta": {"redpajama_set_name": "RedPajamaC4", "x": 1}, "text": "a\nb"})"),
      "good RedPajamaC4 a\nb");
}

TEST(DocumentParser, NamesEveryKindOfProblem) {
  EXPECT_EQ(parse_kind("not json"), "not_json unknown ");
  EXPECT_EQ(parse_kind(R"({"text": "hi"} more)"), "not_json unknown ");
  EXPECT_EQ(parse_kind(R"({"text": "hi)"), "not_json unknown ");
  EXPECT_EQ(parse_kind("[1, 2]"), "not_json unknown ");
  EXPECT_EQ(parse_kind("{\"text\": \"\xFF\xFE\"}"), "invalid_utf8 unknown ");
  EXPECT_EQ(parse_kind(R"({"txt": "hi"})"), "no_text unknown ");
  EXPECT_EQ(parse_kind(R"({"text": 3})"), "text_not_string unknown ");
  EXPECT_EQ(parse_kind(R"({"text": null})"), "text_not_string unknown ");
  EXPECT_EQ(parse_kind(R"({"text": ""})"), "empty_text unknown ");
  EXPECT_EQ(parse_kind(R"({"text": "hi"})"), "no_meta unknown hi");
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": {}})"), "no_meta unknown hi");
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": 7})"), "no_meta unknown hi");
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": "nothing"})"), "no_meta unknown hi");
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": "{\"redpajama_set_name\": \"RedPajamaC4\"}"})"),
            "meta_is_string RedPajamaC4 hi");
  EXPECT_EQ(parse_kind(R"({"text": "hi", "meta": {"redpajama_set_name": "Mine"}})"),
            "unknown_source unknown hi");
}

}  // namespace
}  // namespace gsa::data::test
