#include "data/block_reader.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace gsa::data {
namespace {

/// One past the last newline of `text`; 0 if there is none.
size_t end_of_lines(std::string_view text) {
  const size_t newline = text.rfind('\n');
  return newline == std::string_view::npos ? 0 : newline + 1;
}

}  // namespace

void TextBuffer::grow(size_t capacity) {
  if (capacity <= capacity_) return;
  // realloc moves large memory by remapping its pages, so that both copies never exist.
  auto* bytes = static_cast<char*>(std::realloc(bytes_.get(), capacity + kLinePadding));
  if (bytes == nullptr) throw std::bad_alloc();
  static_cast<void>(bytes_.release());
  bytes_.reset(bytes);
  capacity_ = capacity;
}

void TextBuffer::free() {
  bytes_.reset();
  capacity_ = 0;
}

bool BlockReader::next(Block& block) {
  block.size = 0;
  block.problems = {};
  block.large.release();
  if (!input_ && !open_next(block)) return false;
  block.file = next_file_ - 1;
  block.first_line = line_;
  if (input_) fill(block);
  return true;
}

int64_t BlockReader::bytes_read() const {
  return finished_bytes_ + (input_ ? input_->bytes_read() : 0);
}

/// Opens the next file, unless it is empty; false if there is none.
bool BlockReader::open_next(Block& block) {
  if (next_file_ == files_.size()) return false;
  const InputSpec& file = files_[next_file_++];
  at_end_ = false;
  torn_.reset();
  line_ = 1;
  rest_.clear();
  if (file.bytes == 0) {
    block.problems.add({.kind = Problem::empty_file, .file = file.name, .line = 0, .detail = {}});
  } else {
    input_ = open_input(file.path);
  }
  return true;
}

void BlockReader::fill(Block& block) {
  block.buffer.grow(std::max(limits_.block, 2 * rest_.size()));
  size_t used = rest_.size();
  std::copy(rest_.begin(), rest_.end(), block.buffer.span().begin());
  rest_.clear();
  while (!at_end_ && used < limits_.block) used += read_some(block, used);
  size_t lines_end = end_of_lines({block.buffer.data(), used});
  while (lines_end == 0 && !at_end_) {
    // One line larger than a block: read on to its end and no further than a block beyond it.
    if (used >= limits_.max_line) {
      skip_long_line(block);
      return;
    }
    make_room(block, used);
    const size_t more = read_some(block, used);
    const size_t end = end_of_lines({block.buffer.data() + used, more});
    if (end > 0) lines_end = used + end;
    used += more;
  }
  // The last line of a file may lack its newline; that of a torn file is incomplete.
  if (at_end_) lines_end = torn_ ? lines_end : used;
  keep_lines(block, used, lines_end);
  close_if_ended(block);
}

/// Reads up to a block into the buffer at `used`, which has room; notes the end and how it came.
size_t BlockReader::read_some(Block& block, size_t used) {
  const auto room = block.buffer.span().subspan(used);
  try {
    const size_t count = input_->read(room.first(std::min(room.size(), limits_.block)));
    if (count == 0) at_end_ = true;
    return count;
  } catch (const TornInput& torn) {
    torn_ = torn.what();
    at_end_ = true;
    return 0;
  }
}

void BlockReader::make_room(Block& block, size_t used) {
  if (block.buffer.capacity() > used) return;
  const size_t capacity = std::min(2 * block.buffer.capacity(), limits_.max_line + limits_.block);
  if (capacity > limits_.large && !block.large.held()) block.large = LargeBlocks::Hold(large_);
  block.buffer.grow(capacity);
}

void BlockReader::keep_lines(Block& block, size_t used, size_t lines_end) {
  const char* text = block.buffer.data();
  block.size = lines_end;
  line_ += std::count(text, text + lines_end, '\n');
  if (!at_end_) rest_.assign(text + lines_end, text + used);
}

void BlockReader::skip_long_line(Block& block) {
  block.problems.add({.kind = Problem::line_too_long,
                      .file = files_[block.file].name,
                      .line = line_,
                      .detail = {}});
  ++line_;
  block.buffer.free();
  block.buffer.grow(limits_.block);
  block.large.release();
  while (!at_end_) {
    const size_t count = read_some(block, 0);
    const std::string_view text(block.buffer.data(), count);
    const size_t newline = text.find('\n');
    if (newline == std::string_view::npos) continue;
    rest_.assign(text.begin() + newline + 1, text.end());
    break;
  }
  close_if_ended(block);
}

void BlockReader::close_if_ended(Block& block) {
  if (!at_end_) return;
  const InputSpec& file = files_[block.file];
  if (torn_) {
    block.problems.add(
        {.kind = Problem::torn_file, .file = file.name, .line = line_, .detail = *torn_});
  }
  finished_bytes_ += file.bytes;
  input_.reset();
}

}  // namespace gsa::data
