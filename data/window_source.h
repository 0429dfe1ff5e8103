#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/sources.h"
#include "data/stream.h"

namespace gsa::data {

/// Which window stands at which position.
enum class WindowVisit : uint8_t {
  shuffled,    ///< pseudo-random, another order each epoch, without end: for training
  sequential,  ///< front to back, once, the short rest of the stream included: for validation
};

/// One training sample: `sequence_length` + 1 tokens, the first predicting the second and so on.
struct Window {
  std::vector<int32_t> tokens;           ///< [sequence_length + 1]
  std::vector<SourceId> sources;         ///< [sequence_length], of tokens[1], tokens[2], ...
  std::vector<int32_t> document_starts;  ///< places in [0, sequence_length) where a document begins
  int64_t labels = 0;  ///< how many of the targets are real: fewer in a short rest
};

/// A stream cut into windows of T + 1 tokens, T being the sequence length: window w covers tokens
/// [w T, w T + T], so that every token but the stream's first is predicted exactly once. What a
/// position holds depends on the stream, T and the seed alone. May be read by several threads.
class WindowSource {
 public:
  struct Options {
    int64_t sequence_length = 0;
    int32_t vocabulary_size = 0;  ///< ids must be below
    uint64_t seed = 0;
    WindowVisit visit = WindowVisit::shuffled;
    bool document_starts = false;  ///< whether Window::document_starts is filled
  };

  /// Throws DataError when the stream is bad, shorter than one window, or was made by a tokenizer
  /// with more ids than `vocabulary_size`.
  WindowSource(const std::filesystem::path& path, const Options& options);

  /// Windows an epoch.
  [[nodiscard]] int64_t windows() const { return windows_; }
  [[nodiscard]] const TokenStream& stream() const { return stream_; }

  /// Which window is visited at `position` (position / windows() is the epoch).
  [[nodiscard]] int64_t window_at(int64_t position) const;

  /// Fills `window` with what stands at `position`. Throws DataError for a token outside the
  /// vocabulary.
  void read(int64_t position, Window& window) const;

 private:
  Options options_;
  TokenStream stream_;
  int64_t windows_ = 0;
};

}  // namespace gsa::data
