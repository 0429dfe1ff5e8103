#include "data/shard_job.h"

#include <fmt/format.h>

#include "data/error.h"
#include "data/shard_notes.h"

namespace gsa::data {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlank = " \t\r\n";

/// Takes the first line, without its newline, off `text`.
std::string_view take_line(std::string_view& text) {
  const size_t newline = text.find('\n');
  const auto line = text.substr(0, newline);
  text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
  return line;
}

}  // namespace

ShardJob::ShardJob(const ShardPlan& plan, const std::filesystem::path& folder,
                   const Settings& settings)
    : plan_(plan),
      settings_(settings),
      reader_(plan.inputs, settings.large),
      writer_(folder / plan.file, settings.tokenizer.info()) {}

bool ShardJob::step(EncodeScratch& scratch) {
  int64_t sequence = 0;
  if (!read_block(scratch, sequence)) return false;
  put(sequence, encode(scratch));
  return true;
}

void ShardJob::cancel() {
  const std::lock_guard lock(write_mutex_);
  cancelled_ = true;
  waiting_.clear();  // lets go of a large block that another job may wait for
  written_.notify_all();
}

bool ShardJob::read_block(EncodeScratch& scratch, int64_t& sequence) {
  const std::lock_guard reading(read_mutex_);
  {
    std::unique_lock lock(write_mutex_);
    written_.wait(
        lock, [&] { return cancelled_ || next_read_ - next_written_ < settings_.blocks_ahead; });
    if (cancelled_ || block_count_ >= 0) return false;
  }
  if (!reader_.next(scratch.block)) {
    const std::lock_guard lock(write_mutex_);
    block_count_ = next_read_;
    finish_if_whole();
    return false;
  }
  sequence = next_read_++;
  const int64_t bytes = reader_.bytes_read();
  settings_.counters.bytes += bytes - bytes_read_;
  bytes_read_ = bytes;
  return true;
}

EncodedBlock ShardJob::encode(EncodeScratch& scratch) const {
  Block& block = scratch.block;
  EncodedBlock encoded(width_for(settings_.tokenizer.vocabulary_size()));
  // A large block gets room for the most it can need, of which only what it uses becomes memory;
  // growing by doubling would need more.
  if (block.large.held()) encoded.tokens.reserve(block.size);
  auto text = block.text();
  int64_t number = block.first_line;
  if (number == 1 && text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  for (; !text.empty(); ++number) {
    const auto line = take_line(text);
    if (line.find_first_not_of(kBlank) == std::string_view::npos) continue;
    encode_line(line, number, scratch, encoded);
  }
  encoded.problems.add(block.problems);
  if (block.large.held()) {
    block.buffer.free();
    scratch.parser.trim();
    encoded.large = std::move(block.large);
  }
  return encoded;
}

void ShardJob::encode_line(std::string_view line, int64_t number, EncodeScratch& scratch,
                           EncodedBlock& encoded) const {
  ParsedLine parsed = scratch.parser.parse(line);
  if (parsed.problem) {
    encoded.problems.add({.kind = *parsed.problem,
                          .file = plan_.inputs[scratch.block.file].name,
                          .line = number,
                          .detail = std::move(parsed.detail)});
    if (loses_text(*parsed.problem)) return;
  }
  const int64_t before = encoded.tokens.size();
  settings_.tokenizer.encode_to(parsed.text,
                                [&](std::span<const int32_t> ids) { encoded.tokens.append(ids); });
  const int32_t end = settings_.tokenizer.end_of_sequence();
  encoded.tokens.append({&end, 1});
  encoded.document_tokens.push_back(encoded.tokens.size() - before);
  encoded.sources.push_back(parsed.source);
}

/// In strict mode. Blocks come in order, so that the first problem is named for any number of
/// threads.
void ShardJob::refuse_problems(const ProblemList& problems) const {
  if (!settings_.strict || problems.named.empty()) return;
  throw DataError(
      fmt::format("{}; strict mode stops at the first problem", describe(problems.named.front())));
}

void ShardJob::put(int64_t sequence, EncodedBlock encoded) {
  const std::lock_guard lock(write_mutex_);
  if (cancelled_) return;
  waiting_.emplace(sequence, std::move(encoded));
  for (auto front = waiting_.begin(); front != waiting_.end() && front->first == next_written_;
       front = waiting_.begin()) {
    const EncodedBlock& block = front->second;
    refuse_problems(block.problems);
    writer_.append(block.tokens, block.document_tokens, block.sources);
    problems_.add(block.problems);
    settings_.counters.tokens += block.tokens.size();
    settings_.counters.documents += static_cast<int64_t>(block.sources.size());
    waiting_.erase(front);
    ++next_written_;
  }
  written_.notify_all();
  finish_if_whole();
}

void ShardJob::finish_if_whole() {
  if (cancelled_ || next_written_ != block_count_) return;
  ShardNotes notes;
  for (const auto& input : plan_.inputs) notes.inputs.push_back({input.name, input.bytes});
  notes.problems = std::move(problems_);
  writer_.finish(to_json(notes));
  settings_.counters.files += static_cast<int64_t>(plan_.inputs.size());
}

}  // namespace gsa::data
