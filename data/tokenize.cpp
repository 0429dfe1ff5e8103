#include "data/tokenize.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "data/error.h"
#include "data/index.h"
#include "data/json_text.h"
#include "data/output_file.h"
#include "data/shard.h"
#include "data/shard_notes.h"
#include "data/tokenize_plan.h"
#include "data/tokenize_workers.h"
#include "data/tokenizer.h"

namespace gsa::data {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

void check_options(const TokenizeOptions& options) {
  if (options.parts < 1 || options.part < 1 || options.part > options.parts) {
    throw DataError(fmt::format("part {}/{}: parts are numbered from 1, as in 3/16", options.part,
                                options.parts));
  }
  if (options.threads < 0 || options.input_bytes_per_shard < 1) {
    throw DataError(fmt::format("threads ({}) and the input bytes of a shard ({}) must be positive",
                                options.threads, options.input_bytes_per_shard));
  }
}

/// What a finished shard says of itself, if it is there and was made as `plan` says; nothing if it
/// is not there. Throws DataError for any other file of that name.
std::optional<ShardNotes> finished(const ShardPlan& plan, const fs::path& folder,
                                   const TokenizerInfo& tokenizer) {
  const auto path = folder / plan.file;
  if (!fs::exists(path)) return std::nullopt;
  const Shard shard(path);
  if (shard.tokenizer().hash != tokenizer.hash) {
    throw DataError(fmt::format(
        "{}: made with tokenizer {} (hash {}), but this command names {} (hash {}); choose another "
        "output folder",
        path.string(), shard.tokenizer().name, hex(shard.tokenizer().hash), tokenizer.name,
        hex(tokenizer.hash)));
  }
  auto notes = parse_notes(shard.notes(), path.string());
  const auto same = [](const InputSpec& a, const ShardNotes::Input& b) {
    return a.name == b.name && a.bytes == b.bytes;
  };
  if (!std::equal(plan.inputs.begin(), plan.inputs.end(), notes.inputs.begin(), notes.inputs.end(),
                  same)) {
    throw DataError(
        fmt::format("{}: made from other input files than this command would put there (first: {}, "
                    "now {}); choose "
                    "another output folder, or give the same inputs and sizes again",
                    path.string(), notes.inputs.empty() ? "none" : notes.inputs.front().name,
                    plan.inputs.front().name));
  }
  return notes;
}

TokenizeProgress progress_of(const TokenizeCounters& counters, TokenizeProgress at_start,
                             double seconds) {
  TokenizeProgress progress = at_start;
  progress.files += counters.files;
  progress.bytes += counters.bytes;
  progress.documents = counters.documents;
  progress.tokens = counters.tokens;
  progress.seconds = seconds;
  if (seconds > 0 && counters.bytes > 0) {
    progress.tokens_per_second = static_cast<double>(progress.tokens) / seconds;
    progress.seconds_left = seconds * static_cast<double>(progress.bytes_total - progress.bytes) /
                            static_cast<double>(counters.bytes);
  }
  return progress;
}

void write_problems(const fs::path& folder, const ProblemList& problems) {
  std::string text;
  for (const auto& entry : problems.named) text += describe(entry) + "\n";
  const auto named = static_cast<int64_t>(problems.named.size());
  if (problems.total() > named) {
    text += fmt::format("and {} more\n", problems.total() - named);
  }
  write_file(folder / kProblemsName, text);
}

/// Adds up what the shards of the folder say, and writes the index when none is missing.
void conclude(const std::vector<ShardPlan>& plans, const fs::path& folder,
              const TokenizerInfo& tokenizer, TokenizeReport& report) {
  std::vector<std::string> files;
  for (const auto& plan : plans) {
    if (const auto notes = finished(plan, folder, tokenizer)) {
      files.push_back(plan.file);
      report.problems.add(notes->problems);
    }
  }
  const FolderIndex index = make_index(folder, files);
  report.shards = static_cast<int64_t>(plans.size());
  report.shards_missing = report.shards - static_cast<int64_t>(files.size());
  report.complete = report.shards_missing == 0;
  report.documents = index.documents();
  report.tokens = index.tokens();
  if (report.complete) {
    write_problems(folder, report.problems);
    write_index(folder, index);
  }
}

void keep_model(const fs::path& folder, const Tokenizer& tokenizer) {
  const std::string model = tokenizer.model_bytes();
  const auto copy = folder / kTokenizerCopy;
  if (!model.empty()) write_file(copy, model);
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw OutputError(fmt::format("{}: cannot make this output folder: {}; choose another one",
                                  folder.string(), error.message()));
  }
}

}  // namespace

TokenizeReport tokenize(const TokenizeOptions& options) {
  check_options(options);
  const auto start = Clock::now();
  const auto seconds = [start] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto tokenizer = make_tokenizer(options.tokenizer);
  const auto plans = plan_shards(options.inputs, options.input_bytes_per_shard);
  make_folder(options.output);

  TokenizeReport report;
  TokenizeProgress at_start;
  std::vector<const ShardPlan*> to_do;
  for (size_t shard = 0; shard < plans.size(); ++shard) {
    const auto& plan = plans[shard];
    if (shard % static_cast<size_t>(options.parts) != static_cast<size_t>(options.part - 1)) {
      continue;
    }
    const auto files = static_cast<int64_t>(plan.inputs.size());
    at_start.files_total += files;
    at_start.bytes_total += plan.bytes;
    if (finished(plan, options.output, tokenizer->info())) {
      ++report.shards_kept;
      at_start.files += files;
      at_start.bytes += plan.bytes;
    } else {
      to_do.push_back(&plan);
    }
  }
  keep_model(options.output, *tokenizer);

  TokenizeCounters counters;
  const auto tick = [&] {
    if (options.progress) options.progress(progress_of(counters, at_start, seconds()));
  };
  if (!to_do.empty()) {
    TokenizeWorkers workers(to_do, options, *tokenizer, counters);
    workers.wait(options.progress_interval, tick);
  }
  tick();
  conclude(plans, options.output, tokenizer->info(), report);
  const auto losses = static_cast<double>(report.problems.losses());
  if (losses > 0) report.loss_share = losses / (losses + static_cast<double>(report.documents));
  report.past_threshold = report.loss_share > options.loss_threshold;
  report.seconds = seconds();
  return report;
}

std::string describe(const TokenizeProgress& progress) {
  constexpr double kMillion = 1e6;
  const auto left = std::chrono::seconds(static_cast<int64_t>(progress.seconds_left));
  return fmt::format("{}/{} files, {:.1f} M tokens, {:.2f} M tokens/s, {:%H:%M:%S} left",
                     progress.files, progress.files_total,
                     static_cast<double>(progress.tokens) / kMillion,
                     progress.tokens_per_second / kMillion, left);
}

std::string describe(const TokenizeReport& report) {
  constexpr size_t kShown = 10;
  constexpr double kPercent = 100.0;
  std::string text =
      fmt::format("{} of {} shards ({} kept from before), {} documents, {} tokens, {:.1f} s\n",
                  report.shards - report.shards_missing, report.shards, report.shards_kept,
                  report.documents, report.tokens, report.seconds);
  if (!report.complete) {
    text += fmt::format(
        "{} shards of other parts are not here yet; when they are, run the command once more\n",
        report.shards_missing);
  }
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    const auto count = report.problems.counts[kind];
    const auto problem = static_cast<Problem>(kind);
    if (count > 0) {
      text +=
          fmt::format("{:>10} {:<16} {}\n", count, problem_name(problem), problem_meaning(problem));
    }
  }
  const auto& named = report.problems.named;
  for (size_t i = 0; i < std::min(kShown, named.size()); ++i) text += describe(named[i]) + "\n";
  if (named.size() > kShown) {
    text += fmt::format("and {} more, see {}\n",
                        report.problems.total() - static_cast<int64_t>(kShown), kProblemsName);
  }
  if (report.past_threshold) {
    text += fmt::format("{:.3f} % of the documents were lost: more than the threshold\n",
                        kPercent * report.loss_share);
  }
  return text;
}

}  // namespace gsa::data
