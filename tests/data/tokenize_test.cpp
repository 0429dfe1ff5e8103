#include "data/tokenize.h"

#include <gtest/gtest.h>

#include "data/error.h"
#include "data/index.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 6;
constexpr size_t kDocuments = 60;
constexpr size_t kWords = 200;

TokenizeOptions options_for(const std::filesystem::path& input,
                            const std::filesystem::path& output) {
  TokenizeOptions options;
  options.inputs = {input};
  options.output = output;
  options.threads = 2;
  options.input_bytes_per_shard = 1;  // a shard for each file
  return options;
}

/// Documents of every shard in the order of the stream, decoded.
std::vector<Document> documents_of(const std::filesystem::path& folder) {
  std::vector<Document> documents;
  const auto index = read_index(folder);
  const auto tokenizer = tokenizer_of_folder(folder, index.tokenizer);
  for (const auto& entry : index.shards) {
    const Shard shard(folder / entry.file);
    shard.verify();
    for (int64_t d = 0; d < shard.documents(); ++d) {
      const int64_t begin = shard.document_begin(d);
      std::vector<int32_t> ids(static_cast<size_t>(shard.document_begin(d + 1) - begin));
      shard.copy(begin, ids);
      EXPECT_EQ(ids.back(), index.tokenizer.end_of_sequence);
      documents.push_back(
          {.text = tokenizer->decode(ids), .source = std::string(kSourceNames[shard.source(d)])});
    }
  }
  return documents;
}

void expect_same(const std::vector<Document>& found, const std::vector<Document>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].text, expected[i].text);
    EXPECT_EQ(found[i].source, expected[i].source);
  }
}

/// Twelve files in two chunks, named so that the natural order is not the alphabetical one.
std::vector<Document> write_corpus(const std::filesystem::path& folder) {
  std::mt19937_64 random(kSeed);
  std::vector<Document> all;
  for (const std::string chunk : {"chunk2", "chunk10"}) {
    for (int file = 0; file < 12; file += 2) {
      const auto documents = random_documents(random, kDocuments, kWords);
      constexpr std::array<const char*, 3> kEndings = {".jsonl.zst", ".jsonl.gz", ".jsonl"};
      const auto name = "example_train_" + std::to_string(file) + kEndings[file % 3];
      write_input(folder / chunk / name, to_jsonl(documents));
      all.insert(all.end(), documents.begin(), documents.end());
    }
  }
  write_bytes(folder / "chunk2" / "README.txt", "no input");
  return all;
}

TEST(Tokenize, KeepsDocumentsInInputOrder) {
  const TempFolder folder;
  const auto documents = write_corpus(folder / "in");
  const auto report = tokenize(options_for(folder / "in", folder / "out"));
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.shards, 12);
  EXPECT_EQ(report.documents, static_cast<int64_t>(documents.size()));
  EXPECT_EQ(report.problems.total(), 0);
  EXPECT_FALSE(report.past_threshold);
  expect_same(documents_of(folder / "out"), documents);
}

TEST(Tokenize, SentencePieceDocumentsAreThoseOfTheTokenizer) {
  const TempFolder folder;
  const auto documents = write_corpus(folder / "in");
  auto options = options_for(folder / "in", folder / "out");
  options.tokenizer = train_model(folder).string();
  tokenize(options);
  EXPECT_EQ(read_bytes(folder / "out/tokenizer.model"), read_bytes(options.tokenizer));
  const auto tokenizer = make_tokenizer(options.tokenizer);
  std::vector<int32_t> expected;
  for (const auto& document : documents) {
    tokenizer->encode(document.text, expected);
    expected.push_back(tokenizer->end_of_sequence());
  }
  std::vector<int32_t> found;
  for (const auto& entry : read_index(folder / "out").shards) {
    const Shard shard(folder / "out" / entry.file);
    std::vector<int32_t> ids(static_cast<size_t>(shard.tokens()));
    shard.copy(0, ids);
    found.insert(found.end(), ids.begin(), ids.end());
  }
  EXPECT_EQ(found, expected);
}

TEST(Tokenize, PlainGzipAndZstdGiveTheSameTokens) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  const auto documents = random_documents(random, kDocuments, kWords);
  for (const std::string name : {"a.jsonl", "b.jsonl.gz", "c.jsonl.zst"}) {
    write_input(folder / name, to_jsonl(documents));
    tokenize(options_for(folder / name, folder / ("out-" + name)));
    expect_same(documents_of(folder / ("out-" + name)), documents);
  }
}

TEST(Tokenize, OutputDoesNotDependOnThreads) {
  // One file of several blocks and a number of small ones: threads work apart first, then together.
  const TempFolder folder;
  write_corpus(folder / "in");
  std::mt19937_64 random(kSeed);
  write_input(folder / "in/chunk3/large.jsonl.zst", to_jsonl(random_documents(random, 4000, 200)));
  for (const int threads : {1, 2, 5}) {
    auto options = options_for(folder / "in", folder / std::to_string(threads));
    options.threads = threads;
    options.input_bytes_per_shard = 20'000;
    tokenize(options);
    EXPECT_EQ(contents_of(options.output), contents_of(folder / "1")) << threads << " threads";
  }
}

TEST(Tokenize, PartsMergeIntoTheSameFolder) {
  const TempFolder folder;
  write_corpus(folder / "in");
  tokenize(options_for(folder / "in", folder / "whole"));
  constexpr int kParts = 5;
  for (int part = 1; part <= kParts; ++part) {
    auto options = options_for(folder / "in", folder / "parts");
    options.part = part;
    options.parts = kParts;
    const auto report = tokenize(options);
    EXPECT_EQ(report.complete, part == kParts);
    EXPECT_EQ(std::filesystem::exists(folder / "parts/index.json"), part == kParts);
  }
  EXPECT_EQ(contents_of(folder / "parts"), contents_of(folder / "whole"));
}

TEST(Tokenize, LargeDocumentsBesideSmallOnes) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  std::vector<Document> documents;
  constexpr size_t kLarge = size_t{9} << 20;
  for (int i = 0; i < 2; ++i) {
    for (auto& document : random_documents(random, kDocuments, kWords)) {
      documents.push_back(std::move(document));
    }
    documents.push_back(
        {.text = std::string(kLarge, static_cast<char>('a' + i)), .source = "RedPajamaBook"});
  }
  write_input(folder / "in/a.jsonl.zst", to_jsonl(documents));
  write_input(folder / "in/b.jsonl.zst", to_jsonl(documents));
  auto expected = documents;
  expected.insert(expected.end(), documents.begin(), documents.end());
  for (const int threads : {1, 4}) {
    auto options = options_for(folder / "in", folder / std::to_string(threads));
    options.threads = threads;
    tokenize(options);
    expect_same(documents_of(options.output), expected);
  }
}

TEST(Tokenize, DirtyInputIsCountedAndNamed) {
  const TempFolder folder;
  const std::string good =
      "{\"text\": \"good\", \"meta\": {\"redpajama_set_name\": \"RedPajamaC4\"}}\n";
  write_bytes(folder / "in/chunk1/a.jsonl",
              good + "broken\n" + "\n" + R"({"text": 5})" + "\n" + R"({"meta": {}})" + "\n" + good +
                  "{\"text\": \"\xFF\"}\n" + R"({"text": ""})" + "\n" + R"({"text": "no meta"})" +
                  "\n" + R"({"text": "x", "meta": {"redpajama_set_name": "Other"}})" + "\n" +
                  R"({"text": "y", "meta": "{\"redpajama_set_name\": \"RedPajamaC4\"}"})");
  write_bytes(folder / "in/chunk1/b.jsonl", "");
  const std::string packed = zstd(good);
  write_bytes(folder / "in/chunk1/c.jsonl.zst", packed.substr(0, packed.size() - 3));
  const auto options = options_for(folder / "in", folder / "out");
  const auto report = tokenize(options);
  EXPECT_TRUE(report.complete);
  const std::vector<Problem> kinds = {Problem::not_json,       Problem::text_not_string,
                                      Problem::no_text,        Problem::empty_text,
                                      Problem::invalid_utf8,   Problem::no_meta,
                                      Problem::empty_file,     Problem::unknown_source,
                                      Problem::meta_is_string, Problem::torn_file};
  for (const auto kind : kinds) EXPECT_EQ(report.problems.count(kind), 1) << problem_name(kind);
  EXPECT_EQ(report.problems.total(), static_cast<int64_t>(kinds.size()));
  EXPECT_TRUE(report.past_threshold);
  expect_parts(
      read_bytes(folder / "out/problems.txt"),
      {"chunk1/a.jsonl:2: not_json", "chunk1/a.jsonl:4: text_not_string",
       "chunk1/a.jsonl:5: no_text", "chunk1/a.jsonl:7: invalid_utf8",
       "chunk1/a.jsonl:8: empty_text", "chunk1/a.jsonl:9: no_meta",
       "chunk1/a.jsonl:10: unknown_source: set 'Other'", "chunk1/a.jsonl:11: meta_is_string",
       "chunk1/b.jsonl: empty_file", "chunk1/c.jsonl.zst:1: torn_file"});
  expect_parts(describe(report), {"not_json", "torn_file", "more than the threshold"});
  // A second run keeps everything and tells the same.
  const auto again = tokenize(options);
  EXPECT_EQ(again.shards_kept, again.shards);
  EXPECT_EQ(again.problems.named, report.problems.named);
}

TEST(Tokenize, TheThresholdIsAShareOfTheDocuments) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  constexpr size_t kCount = 999;
  const auto lines = to_jsonl(random_documents(random, kCount, 3));
  write_bytes(folder / "one.jsonl", lines + "broken\n");
  EXPECT_FALSE(tokenize(options_for(folder / "one.jsonl", folder / "one")).past_threshold);
  write_bytes(folder / "two.jsonl", lines + "broken\nbroken\n");
  EXPECT_TRUE(tokenize(options_for(folder / "two.jsonl", folder / "two")).past_threshold);
}

TEST(Tokenize, StrictModeStopsAtTheFirstProblem) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  // Several blocks, of which all but the first few lines have problems.
  std::string lines = to_jsonl(random_documents(random, 5, 5)) + "broken\n";
  constexpr size_t kMebibytes = size_t{4} << 20;
  while (lines.size() < kMebibytes)
    lines += R"({"text": 5})"
             "\n";
  write_bytes(folder / "a.jsonl", lines);
  auto options = options_for(folder / "a.jsonl", folder / "out");
  options.strict = true;
  for (const int threads : {1, 4}) {
    options.threads = threads;
    expect_parts(message_of<DataError>([&] { tokenize(options); }),
                 {"a.jsonl:6: not_json", "strict"});
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "out/index.json"));
}

TEST(Tokenize, WrongArgumentsAreNamed) {
  const TempFolder folder;
  const auto message = [&](const std::function<void(TokenizeOptions&)>& change) {
    auto options = options_for(folder / "in", folder / "out");
    change(options);
    return message_of<DataError>([&] { tokenize(options); });
  };
  expect_parts(message([](auto&) {}), {"in", "no such input"});
  std::filesystem::create_directories(folder / "in");
  expect_parts(message([](auto&) {}), {"in", "no .jsonl"});
  expect_parts(message([](auto& o) { o.inputs.clear(); }), {"no input"});
  expect_parts(message([](auto& o) { o.part = 4; }), {"part 4/1"});
  expect_parts(message([](auto& o) { o.tokenizer = "absent.model"; }), {"absent.model"});
}

TEST(Tokenize, AFolderOfOtherShardsIsRefused) {
  const TempFolder folder;
  write_corpus(folder / "in");
  const auto options = options_for(folder / "in", folder / "out");
  tokenize(options);
  auto other = options;
  other.tokenizer = train_model(folder).string();
  expect_parts(message_of<DataError>([&] { tokenize(other); }),
               {"shard-000000.gsa", "bytes", "another output folder"});
  other = options;
  other.inputs = {folder / "in/chunk10"};
  expect_parts(message_of<DataError>([&] { tokenize(other); }),
               {"shard-000000.gsa", "other input files"});
}

TEST(Tokenize, ProgressReachesTheEnd) {
  const TempFolder folder;
  write_corpus(folder / "in");
  auto options = options_for(folder / "in", folder / "out");
  TokenizeProgress last;
  options.progress = [&last](const TokenizeProgress& progress) { last = progress; };
  const auto report = tokenize(options);
  EXPECT_EQ(last.files, last.files_total);
  EXPECT_EQ(last.files, 12);
  EXPECT_EQ(last.bytes, last.bytes_total);
  EXPECT_EQ(last.tokens, report.tokens);
  expect_parts(describe(last), {"12/12 files", "tokens/s", "left"});
}

}  // namespace
}  // namespace gsa::data::test
