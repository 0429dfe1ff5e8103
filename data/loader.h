#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/sources.h"
#include "data/tokenizer.h"
#include "data/window_source.h"

namespace gsa::data {

/// The label of a position that does not count.
inline constexpr int32_t kIgnoredLabel = -100;

/// What one rank runs forward and backward at once: `micro_batch` sequences back to back.
struct Batch {
  std::vector<int32_t> tokens;    ///< [micro_batch * sequence_length], the inputs
  std::vector<int32_t> labels;    ///< likewise, the next token of each; kIgnoredLabel: not counted
  std::vector<SourceId> sources;  ///< likewise, the source of each label
  /// Where recurrent states start anew: 0, then each further start, then the number of tokens.
  /// Every sequence_length, and with reset_state_at_documents at each document's first token too.
  std::vector<int32_t> sequence_offsets;
  int64_t first_sample = 0;  ///< global number of the first sequence; the others follow it
};

/// A folder of shards (or a file of another format, see stream.h) and its share of the samples.
struct WeightedSource {
  std::filesystem::path path;
  double weight = 1.0;
};

struct LoaderOptions {
  std::vector<WeightedSource> sources;
  int64_t sequence_length = 0;
  int64_t micro_batch = 0;   ///< sequences a batch
  int64_t accumulation = 1;  ///< batches of one rank a step
  int rank = 0;
  int ranks = 1;
  int32_t vocabulary_size = 0;  ///< the model's; larger ids are an error
  uint64_t seed = 0;            ///< of the order of windows
  int64_t start_sample = 0;  ///< the first step begins with this sample: 0, or where a run stopped
  WindowVisit visit = WindowVisit::shuffled;
  bool reset_state_at_documents = false;
  int prefetch = 4;  ///< batches kept ahead
};

/// Batches for one rank, prepared by a thread of its own ahead of their use.
///
/// Shuffled: without end. With G = micro_batch * accumulation * ranks samples a step, step s
/// consists of samples start_sample + [s G, (s + 1) G); batch a of rank r holds those from (a ranks
/// + r) micro_batch on. So the samples of a step depend on G alone, and the next step after any
/// number of ranks on the number of samples so far: a run that goes on with other ranks misses and
/// repeats nothing.
///
/// Sequential: each window of each source once, weights and accumulation ignored. All ranks get the
/// same number of batches(); past the end their labels are kIgnoredLabel.
class Loader {
 public:
  /// Opens everything; throws DataError for bad data (see WindowSource), sources of different
  /// tokenizers, and sizes that are not positive.
  explicit Loader(LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next batch, valid until the next call; waits if it is not ready. Throws what went wrong in
  /// preparing it (DataError), and DataError past the last of batches().
  const Batch& next();

  /// How many batches this rank gets: sequential only, -1 when there is no end.
  [[nodiscard]] int64_t batches() const;

  /// Samples in one epoch of all sources together.
  [[nodiscard]] int64_t windows() const;

  /// Who made the tokens; see TokenStream::tokenizer().
  [[nodiscard]] const TokenizerInfo& tokenizer() const;

  /// Seconds that next() has spent waiting so far.
  [[nodiscard]] double data_wait_seconds() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gsa::data
