// gsa bench checkpoint: what a checkpoint in the background costs a run, and the disk's own speed.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/checkpoint_layout.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/step_bench.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
constexpr int warm_up_steps = 3;
constexpr int64_t fewest_steps = 5;
constexpr double timed_seconds = 5;
constexpr size_t write_bytes = size_t{16} << 20;  // of a plain write

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A folder that is there as long as this is: made and removed by rank 0.
class BenchFolder {
 public:
  BenchFolder(const fs::path& directory, Session& session)
      : path_(directory / "bench-checkpoint"), session_(session) {
    if (session_.is_root()) {
      fs::create_directories(path_);
    }
    session_.communicator->barrier();
  }
  ~BenchFolder() {
    if (session_.is_root()) {
      std::error_code ignored;
      fs::remove_all(path_, ignored);
    }
  }
  BenchFolder(const BenchFolder&) = delete;
  BenchFolder& operator=(const BenchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  Session& session_;
};

[[noreturn]] void fail(const fs::path& path) {
  throw std::system_error(errno, std::system_category(), path.string());
}

// Writes the bytes to a new file, has them on the disk, and removes it.
void write_plainly(const fs::path& path, const Buffer& bytes) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) {
    fail(path);
  }
  bool good = true;
  for (size_t begin = 0; good && begin < bytes.bytes();) {
    const size_t size = std::min(write_bytes, bytes.bytes() - begin);
    const ssize_t written = write(file, bytes.data() + begin, size);
    good = written > 0;
    begin += good ? static_cast<size_t>(written) : 0;
  }
  good = good && fdatasync(file) == 0;
  if (!good) {
    const int error = errno;
    close(file);
    fs::remove(path);
    errno = error;
    fail(path);
  }
  close(file);
  fs::remove(path);
}

class CheckpointBench {
 public:
  CheckpointBench(const Config& config, const BenchCheckpointOptions& options, Session& session)
      : session_(session),
        folder_(options.directory.empty() ? config.run.directory : options.directory, session),
        bench_(config, options.accumulation, session),
        layout_(bench_.engine().parameters(), bench_.optimizer()),
        writer_(*session.communicator, folder_.path() / "checkpoints",
                Buffer(session.device, snapshot_bytes(), MemoryKind::pinned), layout_.parameters(),
                layout_.ranges(), layout_.count(), RetentionRules{}),
        plain_(session.device, snapshot_bytes(), MemoryKind::pinned) {
    std::fill_n(plain_.data(), plain_.bytes(), std::byte{0x5A});
  }

  void run(BenchResult& result) {
    const double alone = steps_alone();
    const double plain_before = plain_write_rate();
    write_checkpoint(result, alone);
    result.add("plain_write_gib_s", std::max(plain_before, plain_write_rate()));
  }

 private:
  size_t snapshot_bytes() const { return CheckpointWriter::snapshot_bytes(layout_.count()); }

  // A step as a run does it: the host looks at its results. Seconds, until all ranks are there.
  double timed_step() {
    const auto begin = Clock::now();
    bench_.step();
    bench_.engine().stream().synchronize();
    session_.communicator->barrier();
    return seconds_since(begin);
  }

  // The median step while nothing is written.
  double steps_alone() {
    for (int i = 0; i < warm_up_steps; ++i) {
      timed_step();
    }
    // All ranks must run as many: one decides.
    int64_t steps = std::max(fewest_steps, static_cast<int64_t>(timed_seconds / timed_step()));
    steps = std::stoll(session_.communicator->broadcast_text(std::to_string(steps)));
    std::vector<double> seconds;
    for (int64_t i = 0; i < steps; ++i) {
      seconds.push_back(timed_step());
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }

  // GiB/s of all ranks, each writing as many bytes as of a checkpoint.
  double plain_write_rate() {
    const fs::path file = folder_.path() / fmt::format("plain-{}", session_.communicator->rank());
    session_.communicator->barrier();
    const auto begin = Clock::now();
    write_plainly(file, plain_);
    session_.communicator->barrier();
    return all_gib() / seconds_since(begin);
  }

  void write_checkpoint(BenchResult& result, double alone) {
    const auto begin = Clock::now();
    const CheckpointWriter::Snapshot snapshot = writer_.snapshot();
    const auto count = static_cast<size_t>(layout_.count());
    bench_.optimizer().copy_state({snapshot.master.as<float>(), count},
                                  {snapshot.first_moment.as<float>(), count},
                                  {snapshot.second_moment.as<float>(), count});
    writer_.start({.step = 1, .ranks = session_.communicator->size()}, [this] {
      use_device(session_.device, session_.ordinal);
      bench_.optimizer().wait_for_state_copy();
    });
    const double queued = seconds_since(begin);
    // The first of them waits, before its update, for what is left of the copies.
    std::vector<double> steps;
    while (writer_.busy()) {
      steps.push_back(timed_step());
      writer_.poll();
    }
    const double seconds = seconds_since(begin);
    double sum = 0;
    for (const double step : steps) {
      sum += step;
    }
    const double while_writing = sum / double(steps.size());
    result.add("gib", all_gib());
    result.add("stall_seconds", queued + std::max(0.0, steps.front() - alone));
    result.add("write_seconds", seconds);
    result.add("write_gib_s", all_gib() / seconds);
    result.add("step_ms", alone * 1e3);
    result.add("steps_while_writing", double(steps.size()));
    result.add("step_ms_while_writing", while_writing * 1e3);
    result.add("slowed_percent", (while_writing / alone - 1) * 100);
  }

  double all_gib() const {
    return double(snapshot_bytes()) * session_.communicator->size() / bytes_per_gib;
  }

  Session& session_;
  BenchFolder folder_;
  StepBench bench_;
  CheckpointLayout layout_;
  CheckpointWriter writer_;
  Buffer plain_;
};

}  // namespace

BenchResult bench_checkpoint(const Config& config, const BenchCheckpointOptions& options,
                             Session& session) {
  BenchResult result;
  describe_machine(session, result);
  result.add("config", config.run.name);
  CheckpointBench(config, options, session).run(result);
  return result;
}

}  // namespace gsa
