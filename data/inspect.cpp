#include "data/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "data/error.h"
#include "data/json_text.h"
#include "data/piece_boundaries.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace gsa::data {
namespace {

constexpr int64_t kSampleTokens = 100;

/// How often each token of the vocabulary occurs.
using TokenCounts = std::vector<int64_t>;

/// Counts the tokens of one shard; throws DataError for an id outside the vocabulary.
void count_tokens(const Shard& shard, TokenCounts& counts) {
  constexpr int64_t kAtOnce = 1 << 16;
  std::vector<int32_t> ids;
  for (int64_t begin = 0; begin < shard.tokens(); begin += kAtOnce) {
    ids.resize(static_cast<size_t>(std::min(kAtOnce, shard.tokens() - begin)));
    const uint32_t largest = shard.copy(begin, ids);
    if (largest >= counts.size()) {
      throw DataError(fmt::format("{}: a token has id {}, but its tokenizer {} has {} ids",
                                  shard.path().string(), largest, shard.tokenizer().name,
                                  counts.size()));
    }
    for (const int32_t id : ids) ++counts[static_cast<size_t>(id)];
  }
}

/// Reads one shard whole; returns its fault, if it has one.
std::optional<std::string> fault_of(const std::filesystem::path& folder, const ShardEntry& entry,
                                    const TokenizerInfo& tokenizer, TokenCounts& counts) {
  try {
    const Shard shard(folder / entry.file);
    if (shard.payload_checksum() != entry.checksum || shard.tokenizer() != tokenizer) {
      return fmt::format("{}: not the shard that {} lists", shard.path().string(), kIndexName);
    }
    shard.verify();
    count_tokens(shard, counts);
    return std::nullopt;
  } catch (const DataError& error) {
    return error.what();
  }
}

double entropy_of(const TokenCounts& counts) {
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double entropy = 0;
  for (const int64_t count : counts) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / total;
    entropy -= share * std::log(share);
  }
  return entropy;
}

/// Reads all shards, several at once.
void read_all(const InspectOptions& options, FolderReport& report) {
  const FolderIndex& index = report.index;
  std::vector<std::optional<std::string>> found(index.shards.size());
  TokenCounts total(static_cast<size_t>(index.tokenizer.vocabulary_size), 0);
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    TokenCounts counts(total.size(), 0);
    for (size_t i = next++; i < found.size(); i = next++) {
      found[i] = fault_of(report.folder, index.shards[i], index.tokenizer, counts);
    }
    const std::lock_guard lock(mutex);
    std::transform(counts.begin(), counts.end(), total.begin(), total.begin(), std::plus<>());
  };
  int threads = options.threads;
  if (threads < 1) threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::jthread> workers;
  for (int t = 1; t < threads; ++t) workers.emplace_back(work);
  work();
  workers.clear();
  for (auto& fault : found) {
    if (fault) report.faults.push_back(std::move(*fault));
  }
  if (report.faults.empty()) report.unigram_entropy = entropy_of(total);
}

TextSample sample_of(const Shard& shard, int64_t document, const Tokenizer& tokenizer) {
  const int64_t begin = shard.document_begin(document);
  const int64_t tokens = shard.document_begin(document + 1) - begin;
  if (tokens < 0) {
    throw DataError(fmt::format("{}: document {} ends before it begins; verify the folder",
                                shard.path().string(), document));
  }
  std::vector<int32_t> ids(static_cast<size_t>(std::min(tokens, kSampleTokens)));
  shard.copy(begin, ids);
  return {.source = shard.source(document),
          .shard = shard.path().filename().string(),
          .document = document,
          .tokens = tokens,
          .text = tokenizer.decode(ids)};
}

/// The first documents of each source, in the order of the stream.
std::vector<TextSample> take_samples(const std::filesystem::path& folder, const FolderIndex& index,
                                     int per_source) {
  std::vector<TextSample> samples;
  std::array<int64_t, kSourceCount> wanted{};
  int64_t left = 0;
  for (size_t s = 0; s < kSourceCount; ++s) {
    wanted[s] = std::min<int64_t>(per_source, index.totals[s].documents);
    left += wanted[s];
  }
  if (left == 0) return samples;
  const auto tokenizer = tokenizer_of_folder(folder, index.tokenizer);
  for (const auto& entry : index.shards) {
    const Shard shard(folder / entry.file);
    for (int64_t document = 0; document < shard.documents() && left > 0; ++document) {
      auto& more = wanted[shard.source(document)];
      if (more == 0) continue;
      samples.push_back(sample_of(shard, document, *tokenizer));
      --more;
      --left;
    }
    if (left == 0) break;
  }
  std::stable_sort(samples.begin(), samples.end(),
                   [](const auto& a, const auto& b) { return a.source < b.source; });
  return samples;
}

/// On one line, for a terminal: control characters as spaces, halves of characters as U+FFFD.
std::string one_line(std::string_view text) {
  constexpr unsigned char kFirstPrintable = 0x20;
  std::string line;
  while (!text.empty()) {
    const auto c = first_char(text);
    const bool malformed = c.bytes == 1 && c.code > 0x7F;
    if (malformed) {
      line += "\xEF\xBF\xBD";
    } else if (c.code < kFirstPrintable || c.code == 0x7F) {
      line += ' ';
    } else {
      line += text.substr(0, c.bytes);
    }
    text.remove_prefix(c.bytes);
  }
  return line;
}

}  // namespace

bool is_shard_folder(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return false;
  if (std::filesystem::exists(path / kIndexName)) return true;
  const auto entries = std::filesystem::directory_iterator(path);
  return std::any_of(begin(entries), end(entries), [](const auto& entry) {
    const auto name = entry.path().filename().string();
    return name.starts_with("shard-") && name.ends_with(".gsa");
  });
}

FolderReport inspect_folder(const std::filesystem::path& folder, const InspectOptions& options) {
  FolderReport report;
  report.folder = folder;
  report.index = read_index(folder);
  report.verified = options.verify;
  if (options.verify) read_all(options, report);
  // Damaged shards cannot be trusted to hold text.
  if (report.faults.empty()) {
    report.samples = take_samples(folder, report.index, options.samples_per_source);
  }
  return report;
}

std::string describe(const FolderReport& report) {
  const auto& tokenizer = report.index.tokenizer;
  std::string text = fmt::format(
      "{}: {} shards, {} documents, {} tokens\ntokenizer {} ({} ids, end of sequence {}, hash "
      "{})\n\n"
      "{:<24}{:>14}{:>18}{:>9}\n",
      report.folder.string(), report.index.shards.size(), report.index.documents(),
      report.index.tokens(), tokenizer.name, tokenizer.vocabulary_size, tokenizer.end_of_sequence,
      hex(tokenizer.hash), "source", "documents", "tokens", "share");
  constexpr double kPercent = 100.0;
  const auto all = static_cast<double>(std::max<int64_t>(1, report.index.tokens()));
  for (size_t s = 0; s < kSourceCount; ++s) {
    const auto& total = report.index.totals[s];
    if (total.documents == 0) continue;
    text += fmt::format("{:<24}{:>14}{:>18}{:>7.2f} %\n", kSourceNames[s], total.documents,
                        total.tokens, kPercent * static_cast<double>(total.tokens) / all);
  }
  if (!report.verified) {
    text += "\nchecksums: not checked\n";
  } else if (report.faults.empty()) {
    text += fmt::format("\nchecksums: all {} shards are whole\n", report.index.shards.size());
  } else {
    text += fmt::format("\n{} of {} shards are damaged:\n", report.faults.size(),
                        report.index.shards.size());
    for (const auto& fault : report.faults) text += "  " + fault + "\n";
  }
  if (report.unigram_entropy) {
    text += fmt::format("unigram entropy {:.4f} nats a token\n", *report.unigram_entropy);
  }
  for (const auto& sample : report.samples) {
    text += fmt::format("\n{} ({}, document {}, {} tokens):\n  {}\n", kSourceNames[sample.source],
                        sample.shard, sample.document, sample.tokens, one_line(sample.text));
  }
  return text;
}

}  // namespace gsa::data
