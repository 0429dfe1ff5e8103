#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <vector>

#include "data/block_reader.h"
#include "data/document_parser.h"
#include "data/problems.h"
#include "data/shard_writer.h"
#include "data/tokenize_plan.h"
#include "data/tokenizer.h"

namespace gsa::data {

/// What all jobs of a tokenization add up, read by the thread that shows the progress.
struct TokenizeCounters {
  std::atomic<int64_t> files{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> documents{0};
  std::atomic<int64_t> tokens{0};
};

/// What one thread needs to encode blocks; reused from block to block.
struct EncodeScratch {
  Block block;
  DocumentParser parser;
};

/// A block's documents as tokens.
struct EncodedBlock {
  explicit EncodedBlock(TokenWidth width) : tokens(width) {}
  PackedTokens tokens;
  std::vector<int64_t> document_tokens;
  std::vector<SourceId> sources;
  ProblemList problems;
  LargeBlocks::Hold large;
};

/// The making of one shard by any number of threads. Each calls step() until it returns false: it
/// takes the next block of lines under a lock, encodes it alone, and puts the result in line;
/// whoever completes the line's front writes it. So the shard is the same for any number of
/// threads. The thread that writes the last block finishes the file.
class ShardJob {
 public:
  struct Settings {
    const Tokenizer& tokenizer;
    LargeBlocks& large;
    TokenizeCounters& counters;
    int64_t blocks_ahead;  ///< how many blocks may be in work or wait for an earlier one
    bool strict;           ///< throw DataError at the shard's first problem
  };

  /// `plan` outlives the job. Throws OutputError when the shard cannot be created.
  ShardJob(const ShardPlan& plan, const std::filesystem::path& folder, const Settings& settings);

  /// Handles one block; false when there is none left for this thread. Throws DataError and
  /// OutputError; the job must then be cancelled.
  bool step(EncodeScratch& scratch);

  /// Makes all steps that wait return false; the shard stays unfinished.
  void cancel();

  /// Input bytes not yet read, for choosing the job that needs help most.
  [[nodiscard]] int64_t bytes_left() const { return plan_.bytes - bytes_read_; }

 private:
  bool read_block(EncodeScratch& scratch, int64_t& sequence);
  EncodedBlock encode(EncodeScratch& scratch) const;
  void encode_line(std::string_view line, int64_t number, EncodeScratch& scratch,
                   EncodedBlock& encoded) const;
  void refuse_problems(const ProblemList& problems) const;
  void put(int64_t sequence, EncodedBlock encoded);
  void finish_if_whole();

  const ShardPlan& plan_;
  Settings settings_;
  std::atomic<int64_t> bytes_read_{0};

  std::mutex read_mutex_;  // taken before write_mutex_ where both are
  BlockReader reader_;
  int64_t next_read_ = 0;  // sequence number of the next block

  std::mutex write_mutex_;
  std::condition_variable written_;
  ShardWriter writer_;
  std::map<int64_t, EncodedBlock> waiting_;  // for an earlier block
  int64_t next_written_ = 0;
  int64_t block_count_ = -1;  // known once the input has ended
  bool cancelled_ = false;
  ProblemList problems_;
};

}  // namespace gsa::data
