#include "data/window_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/error.h"
#include "data/window_order.h"

namespace gsa::data {

WindowSource::WindowSource(const std::filesystem::path& path, const Options& options)
    : options_(options),
      stream_(path, options.visit == WindowVisit::shuffled ? Access::random : Access::sequential) {
  const int64_t length = options_.sequence_length;
  const auto& tokenizer = stream_.tokenizer();
  if (tokenizer.vocabulary_size > options_.vocabulary_size) {
    throw DataError(fmt::format(
        "{}: made with tokenizer {} of {} ids, but the model's vocabulary has {}; tokenize with "
        "the "
        "model's own tokenizer, or give the model a vocabulary that covers the data's",
        path.string(), tokenizer.name, tokenizer.vocabulary_size, options_.vocabulary_size));
  }
  const int64_t targets = stream_.tokens() - 1;
  // Shuffled windows all have full length; what is left at the stream's end is not used.
  const bool shuffled = options_.visit == WindowVisit::shuffled;
  windows_ = shuffled ? targets / length : (targets + length - 1) / length;
  if (targets < 1 || windows_ < 1) {
    throw DataError(
        fmt::format("{}: holds {} tokens, fewer than one window of {}; tokenize more text or make "
                    "the sequences "
                    "shorter",
                    path.string(), stream_.tokens(), length + 1));
  }
}

int64_t WindowSource::window_at(int64_t position) const {
  if (options_.visit == WindowVisit::sequential) return position;
  const WindowOrder order(windows_, options_.seed, position / windows_);
  return order.at(position % windows_);
}

void WindowSource::read(int64_t position, Window& window) const {
  const int64_t length = options_.sequence_length;
  const int64_t begin = window_at(position) * length;
  window.labels = std::min(length, stream_.tokens() - 1 - begin);
  const auto labels = static_cast<size_t>(window.labels);
  window.tokens.assign(static_cast<size_t>(length) + 1, 0);
  window.sources.assign(static_cast<size_t>(length), kUnknownSource);
  stream_.copy(begin, options_.vocabulary_size, std::span(window.tokens).first(labels + 1));
  if (stream_.has_sources()) stream_.sources(begin + 1, std::span(window.sources).first(labels));
  window.document_starts.clear();
  if (options_.document_starts) {
    stream_.document_starts(begin, window.labels, window.document_starts);
  }
}

}  // namespace gsa::data
