#include "data/token_file.h"

#include <algorithm>
#include <cstring>

namespace gsa::data {
namespace {

/// Widens `out.size()` tokens of type T. The bytes may lie at any address, hence memcpy.
template <class T>
uint32_t widen(const std::byte* bytes, std::span<int32_t> out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    T token;
    std::memcpy(&token, bytes + i * sizeof(T), sizeof(T));
    largest = std::max(largest, static_cast<uint32_t>(token));
    out[i] = static_cast<int32_t>(token);
  }
  return largest;
}

}  // namespace

void TokenFile::expect(Access access) {
  access_ = access;
  advise({bytes_, static_cast<size_t>(tokens_) * static_cast<size_t>(width_)}, access);
}

uint32_t TokenFile::copy(int64_t begin, std::span<int32_t> out) const {
  const std::byte* from = bytes_ + begin * static_cast<int64_t>(width_);
  if (access_ == Access::random) {
    start_reading({from, out.size() * static_cast<size_t>(width_)});
  }
  switch (width_) {
    case TokenWidth::one:
      return widen<uint8_t>(from, out);
    case TokenWidth::two:
      return widen<uint16_t>(from, out);
    case TokenWidth::four:
      break;
  }
  return widen<uint32_t>(from, out);
}

}  // namespace gsa::data
