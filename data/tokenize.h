#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/problems.h"

namespace gsa::data {

/// How far a tokenization is; files and bytes count those of this part, finished shards included.
struct TokenizeProgress {
  int64_t files = 0;
  int64_t files_total = 0;
  int64_t bytes = 0;  ///< of the input files as they lie on the disk
  int64_t bytes_total = 0;
  int64_t documents = 0;  ///< made by this run, as are the tokens
  int64_t tokens = 0;
  double seconds = 0;  ///< since the start
  double tokens_per_second = 0;
  double seconds_left = 0;  ///< by the bytes; 0 while unknown
};

/// One line for a terminal: files, tokens, tokens/s, time left.
std::string describe(const TokenizeProgress& progress);

struct TokenizeOptions {
  /// Files (.jsonl, .jsonl.gz, .jsonl.zst), or folders that are searched for such files in all
  /// depths; a folder's files are taken in natural order of their names (chunk2 before chunk10).
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path output;     ///< folder of the shards; made if it is missing
  std::string tokenizer = "bytes";  ///< see make_tokenizer
  int threads = 0;                  ///< 0: one for each processor
  /// Consecutive input files are put into one shard until their sizes reach this; a larger file has
  /// a shard to itself. What a kill can undo is one unfinished shard a thread.
  int64_t input_bytes_per_shard = int64_t{64} << 20;
  int part = 1;  ///< this machine's share of the shards: `part` of `parts`, from 1
  int parts = 1;
  bool strict = false;  ///< stop at the first problem instead of counting it
  /// The share of documents (and files) that may be lost to problems before the report says so.
  double loss_threshold = 0.001;
  std::function<void(const TokenizeProgress&)> progress;  ///< called on the caller's thread
  std::chrono::milliseconds progress_interval{1000};
};

/// How a tokenization ended. Counts are over the whole folder when it is complete, otherwise over
/// the shards of this part.
struct TokenizeReport {
  bool complete = false;       ///< all parts' shards are there and index.json was written
  int64_t shards = 0;          ///< of the whole folder
  int64_t shards_missing = 0;  ///< of other parts
  int64_t shards_kept = 0;     ///< of this part, found finished by an earlier run
  int64_t documents = 0;
  int64_t tokens = 0;
  ProblemList problems;
  double loss_share = 0;        ///< losses among documents and losses
  bool past_threshold = false;  ///< loss_share > loss_threshold: the command should end with code 3
  double seconds = 0;           ///< this run's
};

/// The report for a reader: totals, problems by kind, the first few with their places.
std::string describe(const TokenizeReport& report);

inline constexpr std::string_view kProblemsName = "problems.txt";

/// Makes token shards of text, on all processors, each document ended by the end-of-sequence token.
/// The shards depend on the inputs, the tokenizer and input_bytes_per_shard only: not on threads,
/// parts or interruptions. Run again after any kind of stop it keeps what is finished; runs of
/// several parts merge by lying in one folder, and the run that finds all shards there writes
/// index.json and the problems (problems.txt). Memory stays under 1 GiB + 50 MB a thread. Throws
/// DataError for bad inputs and for an output folder made from other ones, OutputError when the
/// output cannot be written (full disk): finished shards stay.
TokenizeReport tokenize(const TokenizeOptions& options);

}  // namespace gsa::data
