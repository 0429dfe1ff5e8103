// What a tokenization takes in memory, whatever its documents.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/index.h"
#include "data/tokenize.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr size_t kLargeDocument = size_t{200} << 20;
constexpr int64_t kGibibyte = int64_t{1} << 30;
constexpr int64_t kOfEachThread = int64_t{50'000'000};

/// Text of `bytes` bytes, with lines, in a file of its own, between small documents. The byte
/// tokenizer gives it as many tokens as can be.
void write_large(const std::filesystem::path& path, size_t bytes) {
  constexpr uint64_t kSeed = 12;
  constexpr size_t kWords = 5000;
  std::mt19937_64 random(kSeed);
  const auto small = random_documents(random, 20, kWords);
  std::string text;
  text.reserve(bytes + small.front().text.size());
  while (text.size() < bytes) text += small.front().text;
  text.resize(bytes);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) > 0x7F; }, 'x');
  auto lines = to_jsonl(small);
  lines += to_jsonl({{.text = std::move(text), .source = "RedPajamaBook"}});
  write_input(path, lines + to_jsonl(small));
}

/// The most memory that `action` takes in a process of its own.
int64_t peak_memory(const std::function<void()>& action) {
  constexpr int64_t kKibibyte = 1024;
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      action();
      ::_exit(0);
    } catch (const std::exception& error) {
      std::fputs(error.what(), stderr);
      ::_exit(1);
    }
  }
  int status = 0;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return usage.ru_maxrss * kKibibyte;
}

TEST(TokenizeMemory, IsBoundedWithDocumentsOf200MegabytesInEveryThread) {
  const TempFolder folder;
  constexpr int kThreads = 3;
  write_large(folder / "in/large-0.jsonl.zst", kLargeDocument);
  for (int file = 1; file < kThreads; ++file) {
    std::filesystem::copy_file(folder / "in/large-0.jsonl.zst",
                               folder / ("in/large-" + std::to_string(file) + ".jsonl.zst"));
  }
  TokenizeOptions options;
  options.inputs = {folder / "in"};
  options.output = folder / "out";
  options.threads = kThreads;
  options.input_bytes_per_shard = 1;  // a shard, and so a thread, for each
  const int64_t peak = peak_memory([&] { tokenize(options); });
  std::printf("%.0f MiB at most\n", static_cast<double>(peak >> 20));
  if (!kSanitized) {
    EXPECT_LT(peak, kGibibyte + kThreads * kOfEachThread);
  }
  EXPECT_GT(read_index(options.output).tokens(), kThreads * static_cast<int64_t>(kLargeDocument));
}

}  // namespace
}  // namespace gsa::data::test
