// Kills tokenizations, runs out of space, and goes on.

#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "data/error.h"
#include "data/tokenize.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int kFiles = 6;

void write_corpus(const std::filesystem::path& folder) {
  std::mt19937_64 random(kSeed);
  constexpr size_t kDocuments = 40;
  constexpr size_t kWords = 100;
  for (int file = 0; file < kFiles; ++file) {
    // Sizes differ, so that a limit on the size of files stops at one of them.
    const auto count = kDocuments * static_cast<size_t>(1 + file % 3);
    write_input(folder / ("example_" + std::to_string(file) + ".jsonl.zst"),
                to_jsonl(random_documents(random, count, kWords)));
  }
}

TokenizeOptions options_for(const std::filesystem::path& input,
                            const std::filesystem::path& output) {
  TokenizeOptions options;
  options.inputs = {input};
  options.output = output;
  options.threads = 2;
  options.input_bytes_per_shard = 1;
  options.progress_interval = std::chrono::milliseconds(0);
  return options;
}

/// Runs `action` in a process of its own; `watch` sees its id while it runs. Returns waitpid's
/// status.
int in_child(const std::function<void()>& action, const std::function<void(pid_t)>& watch) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      action();
      ::_exit(0);
    } catch (...) {
      ::_exit(1);
    }
  }
  watch(child);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

size_t count_files(const std::filesystem::path& folder, std::string_view ending) {
  size_t count = 0;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(folder, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (entry->path().string().ends_with(ending)) ++count;
  }
  return count;
}

bool running(pid_t child) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

/// Runs `action` in a process of its own and kills it as it enters or leaves its `stop`-th system
/// call, the calls of all its threads counted together: only there can files change. Returns how
/// many such stops there were; -1 where tracing is not allowed.
int64_t killed_at_stop(const std::function<void()>& action, int64_t stop) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(2);
    ::raise(SIGSTOP);
    action();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return -1;
  constexpr long kOptions = PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, kOptions);
  ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  constexpr int kAtSystemCall = SIGTRAP | 0x80;
  int64_t stops = 0;
  for (pid_t thread = 0; (thread = ::waitpid(-1, &status, __WALL)) > 0;) {
    if (!WIFSTOPPED(status)) {
      if (thread == child) break;
      continue;
    }
    if (WSTOPSIG(status) == kAtSystemCall && ++stops == stop) {
      ::kill(child, SIGKILL);
      while (::waitpid(-1, &status, __WALL) > 0) {
      }
      break;
    }
    ::ptrace(PTRACE_SYSCALL, thread, nullptr, nullptr);
  }
  return stops;
}

TEST(TokenizeRestart, KilledAtAnySystemCallAndRunAgainEqualsUninterrupted) {
  const TempFolder folder;
  write_corpus(folder / "in");
  auto options = options_for(folder / "in", folder / "whole");
  options.progress_interval = std::chrono::hours(1);
  const int64_t stops = killed_at_stop([&] { tokenize(options); }, -1);
  if (stops < 0) GTEST_SKIP() << "processes may not be traced here";
  const auto whole = contents_of(folder / "whole");
  ASSERT_TRUE(std::filesystem::exists(folder / "whole/index.json"));
  // Spread over the run, and every stop of its end, where the index is written.
  constexpr int64_t kSpread = 50;
  constexpr int64_t kLast = 40;
  std::vector<int64_t> places;
  for (int64_t i = 1; i <= kSpread; ++i) places.push_back(i * (stops - kLast) / kSpread);
  for (int64_t i = 0; i < kLast; ++i) places.push_back(stops - kLast + i);
  for (const int64_t place : places) {
    options.output = folder / ("stop-" + std::to_string(place));
    killed_at_stop([&] { tokenize(options); }, place);
    EXPECT_TRUE(tokenize(options).complete);
    EXPECT_EQ(contents_of(options.output), whole) << "killed at stop " << place << " of " << stops;
    EXPECT_EQ(count_files(options.output, ".tmp"), 0U);
  }
}

TEST(TokenizeRestart, KilledAnywhereAndRunAgainEqualsUninterrupted) {
  const TempFolder folder;
  write_corpus(folder / "in");
  tokenize(options_for(folder / "in", folder / "whole"));
  const auto whole = contents_of(folder / "whole");
  // Killed when so many shards are finished, and in the middle of others; once more on the way.
  for (size_t shards = 0; shards <= kFiles; ++shards) {
    const auto options = options_for(folder / "in", folder / ("killed-" + std::to_string(shards)));
    for (const size_t more : {size_t{0}, size_t{1}}) {
      in_child([&] { tokenize(options); },
               [&](pid_t child) {
                 while (running(child) && (count_files(options.output, ".gsa") < shards + more ||
                                           count_files(options.output, ".tmp") == 0)) {
                 }
                 ::kill(child, SIGKILL);
               });
    }
    const auto report = tokenize(options);
    EXPECT_TRUE(report.complete);
    EXPECT_EQ(contents_of(options.output), whole) << "killed after " << shards;
    EXPECT_EQ(count_files(options.output, ".tmp"), 0U);
  }
}

TEST(TokenizeRestart, KilledAtAnyByteOfAShardAndRunAgainEqualsUninterrupted) {
  // The kernel kills a process that writes past its limit on the size of files: an exact place.
  const TempFolder folder;
  write_corpus(folder / "in");
  tokenize(options_for(folder / "in", folder / "whole"));
  const auto whole = contents_of(folder / "whole");
  for (const rlim_t limit : {0, 1, 100, 256, 257, 5'000, 20'000, 40'000, 80'000}) {
    const auto options = options_for(folder / "in", folder / std::to_string(limit));
    in_child(
        [&] {
          const rlimit no_core{0, 0};
          const rlimit size{limit, limit};
          ::setrlimit(RLIMIT_CORE, &no_core);
          ::setrlimit(RLIMIT_FSIZE, &size);
          tokenize(options);
        },
        [](pid_t) {});
    EXPECT_TRUE(tokenize(options).complete);
    EXPECT_EQ(contents_of(options.output), whole) << "limit " << limit;
  }
}

TEST(TokenizeRestart, PartsMayRunAtTheSameTimeInOneFolder) {
  const TempFolder folder;
  write_corpus(folder / "in");
  tokenize(options_for(folder / "in", folder / "whole"));
  constexpr int kParts = 3;
  std::vector<pid_t> children;
  for (int part = 1; part <= kParts; ++part) {
    auto options = options_for(folder / "in", folder / "parts");
    options.part = part;
    options.parts = kParts;
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        tokenize(options);
        ::_exit(0);
      } catch (const std::exception& error) {
        std::fputs(error.what(), stderr);
        ::_exit(1);
      }
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_EQ(contents_of(folder / "parts"), contents_of(folder / "whole"));
}

TEST(TokenizeRestart, AFullDiskStopsCleanlyAndGoesOn) {
  const TempFolder folder;
  write_corpus(folder / "in");
  tokenize(options_for(folder / "in", folder / "whole"));
  const auto options = options_for(folder / "in", folder / "full");
  constexpr rlim_t kRoom = 40'000;  // enough for the small shards
  const int status = in_child(
      [&] {
        std::signal(SIGXFSZ, SIG_IGN);  // writes then fail as on a full disk
        const rlimit size{kRoom, kRoom};
        ::setrlimit(RLIMIT_FSIZE, &size);
        const auto message = message_of<OutputError>([&] { tokenize(options); });
        expect_parts(message, {".gsa", "cannot write", "free some space", "run the same command"});
        if (::testing::Test::HasFailure()) throw std::runtime_error(message);
      },
      [](pid_t) {});
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the child saw another error";
  EXPECT_EQ(count_files(options.output, ".tmp"), 0U) << "what was half-written is removed";
  EXPECT_FALSE(std::filesystem::exists(options.output / "index.json"));
  EXPECT_TRUE(tokenize(options).complete);
  EXPECT_EQ(contents_of(options.output), contents_of(folder / "whole"));
}

TEST(TokenizeRestart, AnUnwritableFolderIsNamed) {
  const TempFolder folder;
  write_corpus(folder / "in");
  write_bytes(folder / "file", "not a folder");
  const auto options = options_for(folder / "in", folder / "file/out");
  expect_parts(message_of<OutputError>([&] { tokenize(options); }),
               {"file/out", "cannot make this output folder"});
}

}  // namespace
}  // namespace gsa::data::test
