#include "data/stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "data/error.h"
#include "data/index.h"
#include "data/llmc.h"
#include "data/megatron.h"
#include "data/shard.h"

namespace gsa::data {

struct TokenStream::Slot {
  std::filesystem::path path;
  int64_t begin = 0;  // in the stream
  int64_t tokens = 0;
  std::unique_ptr<TokenFile> file;
  std::atomic<const TokenFile*> mapped{nullptr};  // file, once it is whole
};

TokenStream::TokenStream(const std::filesystem::path& path, Access access)
    : path_(path), access_(access) {
  if (is_megatron(path)) {
    auto file = open_megatron(path);
    const int64_t tokens = file->tokens();
    add(path, tokens, std::move(file));
  } else if (is_llmc(path)) {
    for (const auto& part : llmc_files(path)) {
      auto file = open_llmc(part);
      const int64_t tokens = file->tokens();
      add(part, tokens, std::move(file));
    }
  } else {
    open_folder();
  }
}

TokenStream::~TokenStream() = default;

void TokenStream::add(const std::filesystem::path& path, int64_t tokens,
                      std::unique_ptr<TokenFile> file) {
  if (tokens == 0) return;  // every slot holds a token, so that each position has one slot
  auto slot = std::make_unique<Slot>();
  slot->path = path;
  slot->begin = tokens_;
  slot->tokens = tokens;
  slot->file = std::move(file);
  if (slot->file) slot->file->expect(access_);
  slot->mapped = slot->file.get();
  slots_.push_back(std::move(slot));
  tokens_ += tokens;
}

void TokenStream::open_folder() {
  const FolderIndex index = read_index(path_);
  tokenizer_ = index.tokenizer;
  for (const auto& shard : index.shards) add(path_ / shard.file, shard.tokens, nullptr);
}

const TokenFile& TokenStream::file(Slot& slot) const {
  if (const auto* file = slot.mapped.load(std::memory_order_acquire)) return *file;
  const std::lock_guard lock(mutex_);
  if (!slot.file) {
    auto shard = std::make_unique<Shard>(slot.path);
    if (shard->tokens() != slot.tokens || shard->tokenizer() != tokenizer_) {
      throw DataError(
          fmt::format("{}: not the shard that {} lists (other tokens or another tokenizer); delete "
                      "it and run the "
                      "folder's `gsa tokenize` command again",
                      slot.path.string(), kIndexName));
    }
    shard->expect(access_);
    slot.file = std::move(shard);
  }
  slot.mapped.store(slot.file.get(), std::memory_order_release);
  return *slot.file;
}

/// Calls visit(slot, file, first position in the file, offset in the range, count) for each shard
/// that the range touches.
template <class Visit>
void TokenStream::for_each_part(int64_t begin, int64_t count, const Visit& visit) const {
  if (begin < 0 || begin + count > tokens_) {
    throw DataError(fmt::format("{}: tokens [{}, {}) were asked for, but the stream holds {}",
                                path_.string(), begin, begin + count, tokens_));
  }
  if (count == 0) return;
  auto next = std::upper_bound(slots_.begin(), slots_.end(), begin,
                               [](int64_t at, const auto& slot) { return at < slot->begin; });
  for (auto slot = next - 1; count > 0; ++slot) {
    const int64_t inside = begin - (*slot)->begin;
    const int64_t here = std::min(count, (*slot)->tokens - inside);
    visit(file(**slot), inside, here);
    begin += here;
    count -= here;
  }
}

void TokenStream::copy(int64_t begin, int32_t vocabulary_size, std::span<int32_t> out) const {
  for_each_part(begin, static_cast<int64_t>(out.size()),
                [&](const TokenFile& file, int64_t inside, int64_t here) {
                  const auto part = out.first(static_cast<size_t>(here));
                  out = out.subspan(part.size());
                  if (file.copy(inside, part) < static_cast<uint32_t>(vocabulary_size)) return;
                  const auto bad = std::find_if(part.begin(), part.end(), [&](int32_t id) {
                    return id < 0 || id >= vocabulary_size;
                  });
                  throw DataError(fmt::format(
                      "{}: token {} has id {}, but the model's vocabulary has {} ids; tokenize "
                      "with the model's own "
                      "tokenizer, or give the model a vocabulary that covers the data's",
                      file.path().string(), inside + (bad - part.begin()),
                      static_cast<uint32_t>(*bad), vocabulary_size));
                });
}

void TokenStream::sources(int64_t begin, std::span<SourceId> out) const {
  for_each_part(begin, static_cast<int64_t>(out.size()),
                [&](const TokenFile& file, int64_t inside, int64_t here) {
                  file.sources(inside, out.first(static_cast<size_t>(here)));
                  out = out.subspan(static_cast<size_t>(here));
                });
}

void TokenStream::document_starts(int64_t begin, int64_t count,
                                  std::vector<int32_t>& starts) const {
  starts.clear();
  int32_t offset = 0;
  for_each_part(begin, count, [&](const TokenFile& file, int64_t inside, int64_t here) {
    const auto before = static_cast<std::ptrdiff_t>(starts.size());
    file.document_starts(inside, here, starts);
    // What follows believes in them, and the files' payloads are not verified when they are opened.
    int32_t least = 0;
    std::for_each(starts.begin() + before, starts.end(), [&](int32_t start) {
      if (start < least || start >= here) {
        throw DataError(
            fmt::format("{}: damaged: its documents' offsets are out of order; `gsa "
                        "inspect` verifies a folder of shards",
                        file.path().string()));
      }
      least = start;
    });
    std::for_each(starts.begin() + before, starts.end(), [&](int32_t& start) { start += offset; });
    offset += static_cast<int32_t>(here);
  });
}

}  // namespace gsa::data
