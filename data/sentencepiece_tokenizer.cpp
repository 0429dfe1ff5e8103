#include "data/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>
#include <xxhash.h>

#include <array>
#include <fstream>
#include <iterator>
#include <mutex>
#include <utility>

#include "data/checksum.h"
#include "data/error.h"
#include "data/pair_merger.h"
#include "data/piece_boundaries.h"
#include "data/piece_cache.h"
#include "data/sentencepiece_model.h"

namespace gsa::data {
namespace {

using Processor = sentencepiece::SentencePieceProcessor;

constexpr size_t kMaxRun = size_t{256} << 10;  // bytes encoded at once: bounds the memory
constexpr size_t kSinkTokens = 4096;           // ids handed over at once
constexpr size_t kMaxCharBytes = 4;
constexpr std::string_view kSpace = " ";

/// Collects ids and hands them over in bunches.
class Bunch {
 public:
  explicit Bunch(const Tokenizer::Sink& sink) : sink_(sink) { ids_.reserve(2 * kSinkTokens); }
  void add(std::span<const int32_t> ids) {
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    if (ids_.size() >= kSinkTokens) flush();
  }
  void flush() {
    if (!ids_.empty()) sink_(ids_);
    ids_.clear();
  }

 private:
  const Tokenizer::Sink& sink_;
  std::vector<int32_t> ids_;
};

/// One thread's working memory for the cut encoding.
struct Scratch {
  PieceCache cache;
  std::vector<int> ids;
};

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) {
    throw DataError(
        fmt::format("{}: cannot read this tokenizer model; give the path of a SentencePiece .model "
                    "file, or 'bytes'",
                    path.string()));
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

void load(Processor& processor, const std::string& model, const std::filesystem::path& path) {
  const auto status = processor.LoadFromSerializedProto(model);
  if (!status.ok() || processor.GetPieceSize() == 0) {
    throw DataError(fmt::format("{}: not a SentencePiece model ({})", path.string(),
                                status.ok() ? "it is empty" : status.ToString()));
  }
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(TokenizerInfo info, std::string model, std::unique_ptr<Processor> whole,
                         std::unique_ptr<Processor> run, const SentencePieceSpec& spec)
      : Tokenizer(std::move(info)),
        model_(std::move(model)),
        whole_(std::move(whole)),
        run_(std::move(run)),
        spec_(spec) {
    single_.fill(-1);
    if (run_) read_vocabulary();
  }

  void encode_to(std::string_view text, const Sink& sink) const override {
    if (run_) {
      encode_runs(text, sink);
    } else {
      encode_whole(text, sink);
    }
  }

  [[nodiscard]] std::string decode(std::span<const int32_t> tokens) const override {
    check_ids(tokens);
    std::string text;
    check(whole_->Decode(std::vector<int>(tokens.begin(), tokens.end()), &text));
    return text;
  }

  [[nodiscard]] std::string model_bytes() const override { return model_; }

 private:
  void read_vocabulary() {
    using Kind = VocabularyPiece::Kind;
    std::vector<VocabularyPiece> pieces;
    for (int id = 0; id < run_->GetPieceSize(); ++id) {
      Kind kind = Kind::text;
      if (run_->IsByte(id)) kind = Kind::byte;
      if (run_->IsControl(id) || run_->IsUnknown(id)) kind = Kind::control;
      if (run_->IsUnused(id) || spec_.user_defined_pieces) kind = Kind::special;
      pieces.push_back({.text = run_->IdToPiece(id), .score = run_->GetScore(id), .kind = kind});
      if (kind == Kind::text || kind == Kind::special) boundaries_.add_piece(pieces.back().text);
    }
    merger_ = PairMerger::make(pieces);
    for (size_t byte = 0; byte < single_.size(); ++byte) {
      const char c = static_cast<char>(byte);
      std::vector<int> ids;
      check(run_->Encode({&c, 1}, &ids));
      if (ids.size() == 1) single_[byte] = ids.front();
    }
  }

  void check(const sentencepiece::util::Status& status) const {
    if (!status.ok()) throw DataError(fmt::format("tokenizer {}: {}", name(), status.ToString()));
  }

  void encode_runs(std::string_view text, const Sink& sink) const {
    if (text.empty()) return;
    auto scratch = take_scratch();
    Bunch bunch(sink);
    if (spec_.add_dummy_prefix) {
      // The prefix is a space before the text: it belongs to the first run.
      std::string head(kSpace);
      head += text.substr(0, kMaxRun + kMaxCharBytes);
      const size_t cut = boundaries_.first_cut(head, kMaxRun);
      encode_run(std::string_view(head).substr(0, cut), *scratch, bunch);
      text.remove_prefix(cut - kSpace.size());
    }
    while (!text.empty()) {
      const size_t cut = boundaries_.first_cut(text, kMaxRun);
      encode_run(text.substr(0, cut), *scratch, bunch);
      text.remove_prefix(cut);
    }
    bunch.flush();
    give_back(std::move(scratch));
  }

  void encode_run(std::string_view run, Scratch& scratch, Bunch& bunch) const {
    if (run.size() == 1) {
      const auto byte = static_cast<unsigned char>(run.front());
      if (byte < single_.size() && single_[byte] >= 0) {
        bunch.add({&single_[byte], 1});
        return;
      }
    }
    if (run.size() > PieceCache::kMaxText) {
      encode_new(run, scratch.ids);
      bunch.add(scratch.ids);
      return;
    }
    auto& entry = scratch.cache.entry(XXH3_64bits(run.data(), run.size()));
    if (PieceCache::holds(entry, run)) {
      bunch.add(std::span(entry.ids).first(entry.id_count));
      return;
    }
    encode_new(run, scratch.ids);
    PieceCache::store(entry, run, scratch.ids);
    bunch.add(scratch.ids);
  }

  void encode_new(std::string_view run, std::vector<int>& ids) const {
    if (merger_ && merger_->encode(run, ids)) return;
    check(run_->Encode({run.data(), run.size()}, &ids));
  }

  void encode_whole(std::string_view text, const Sink& sink) const {
    std::vector<int> ids;
    while (!text.empty()) {
      size_t cut = text.size();
      if (text.size() > kMaxRun) cut = space_before(text, kMaxRun);
      check(whole_->Encode({text.data(), cut}, &ids));
      sink(ids);
      text.remove_prefix(cut);
      // The model puts a space before each text of its own accord: it stands for this one.
      if (spec_.add_dummy_prefix && text.starts_with(kSpace)) text.remove_prefix(kSpace.size());
    }
  }

  /// The last place before `limit` where a space follows something else; else a character's end.
  static size_t space_before(std::string_view text, size_t limit) {
    for (size_t at = limit; at > limit / 2; --at) {
      if (text[at] == ' ' && text[at - 1] != ' ') return at;
    }
    const auto inside_char = [&](size_t at) {
      constexpr unsigned kTailBits = 0xC0;
      constexpr unsigned kTail = 0x80;
      return (static_cast<unsigned char>(text[at]) & kTailBits) == kTail;
    };
    size_t at = limit;
    while (at > limit / 2 && inside_char(at)) --at;
    return at;
  }

  std::unique_ptr<Scratch> take_scratch() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }

  void give_back(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  std::string model_;
  std::unique_ptr<Processor> whole_;
  std::unique_ptr<Processor> run_;  // without the dummy prefix; null if the model cannot be cut
  SentencePieceSpec spec_;
  PieceBoundaries boundaries_;
  std::unique_ptr<PairMerger> merger_;  // null if the library must do it
  std::array<int32_t, 128> single_;     // id of each ASCII character that is a run; -1: not one id
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;  // one for each thread that ever encoded
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& path) {
  std::string model = read_file(path);
  auto whole = std::make_unique<Processor>();
  load(*whole, model, path);
  if (whole->eos_id() < 0) {
    throw DataError(
        fmt::format("{}: this model has no end-of-sequence token, which must end each document; "
                    "train it with one "
                    "(spm_train --eos_id)",
                    path.string()));
  }
  const SentencePieceSpec spec = read_spec(model);
  std::unique_ptr<Processor> run;
  if (spec.can_be_cut()) {
    run = std::make_unique<Processor>();
    load(*run, without_dummy_prefix(model), path);
  }
  TokenizerInfo info{.name = path.filename().string(),
                     .hash = checksum_of(std::as_bytes(std::span(model))),
                     .vocabulary_size = whole->GetPieceSize(),
                     .end_of_sequence = whole->eos_id()};
  return std::make_unique<SentencePieceTokenizer>(std::move(info), std::move(model),
                                                  std::move(whole), std::move(run), spec);
}

}  // namespace gsa::data
