#include "data/sentencepiece_model.h"

#include <cstdint>
#include <functional>

#include "data/error.h"

namespace gsa::data {
namespace {

// Field numbers of sentencepiece_model.proto.
enum ModelField : uint32_t { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3 };
enum TrainerField : uint32_t { kModelType = 3, kWhitespaceAsSuffix = 24, kByteFallback = 35 };
enum NormalizerField : uint32_t {
  kCharsMap = 2,
  kAddDummyPrefix = 3,
  kRemoveExtraWhitespaces = 4,
  kEscapeWhitespaces = 5
};
constexpr uint32_t kPieceType = 3;
constexpr uint64_t kUserDefinedPiece = 4;
constexpr uint64_t kBytePairModel = 2;

// Wire types of protocol buffers.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };
constexpr int kWireTypeBits = 3;
constexpr uint64_t kWireTypeMask = 7;

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a length-delimited field
};

uint64_t take_varint(std::string_view& message) {
  constexpr int kBits = 7;
  constexpr unsigned kMore = 0x80;
  constexpr int kMaxShift = 63;
  uint64_t value = 0;
  for (int shift = 0; shift <= kMaxShift && !message.empty(); shift += kBits) {
    const auto byte = static_cast<unsigned char>(message.front());
    message.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & (kMore - 1)) << shift;
    if ((byte & kMore) == 0) return value;
  }
  throw DataError("SentencePiece model: torn in the middle of a number");
}

std::string_view take_bytes(std::string_view& message, uint64_t count) {
  if (count > message.size()) throw DataError("SentencePiece model: torn in the middle of a field");
  const auto bytes = message.substr(0, count);
  message.remove_prefix(count);
  return bytes;
}

void for_each_field(std::string_view message, const std::function<void(const Field&)>& visit) {
  constexpr uint64_t kBytes64 = 8;
  constexpr uint64_t kBytes32 = 4;
  while (!message.empty()) {
    const uint64_t key = take_varint(message);
    Field field{.number = static_cast<uint32_t>(key >> kWireTypeBits), .value = 0, .bytes = {}};
    switch (key & kWireTypeMask) {
      case kVarint:
        field.value = take_varint(message);
        break;
      case kFixed64:
        take_bytes(message, kBytes64);
        break;
      case kFixed32:
        take_bytes(message, kBytes32);
        break;
      case kLengthDelimited:
        field.bytes = take_bytes(message, take_varint(message));
        break;
      default:
        throw DataError("SentencePiece model: holds a field of unknown type");
    }
    visit(field);
  }
}

}  // namespace

SentencePieceSpec read_spec(std::string_view model) {
  SentencePieceSpec spec;
  const auto trainer = [&spec](const Field& field) {
    if (field.number == kModelType) spec.byte_pair = field.value == kBytePairModel;
    if (field.number == kWhitespaceAsSuffix) spec.whitespace_as_suffix = field.value != 0;
    if (field.number == kByteFallback) spec.byte_fallback = field.value != 0;
  };
  const auto normalizer = [&spec](const Field& field) {
    if (field.number == kCharsMap) spec.identity = field.bytes.empty();
    if (field.number == kAddDummyPrefix) spec.add_dummy_prefix = field.value != 0;
    if (field.number == kRemoveExtraWhitespaces) spec.remove_extra_whitespaces = field.value != 0;
    if (field.number == kEscapeWhitespaces) spec.escape_whitespaces = field.value != 0;
  };
  const auto piece = [&spec](const Field& field) {
    const bool user_defined = field.number == kPieceType && field.value == kUserDefinedPiece;
    spec.user_defined_pieces = spec.user_defined_pieces || user_defined;
  };
  for_each_field(model, [&](const Field& field) {
    if (field.number == kPieces) for_each_field(field.bytes, piece);
    if (field.number == kTrainerSpec) for_each_field(field.bytes, trainer);
    if (field.number == kNormalizerSpec) for_each_field(field.bytes, normalizer);
  });
  return spec;
}

std::string without_dummy_prefix(std::string_view model) {
  const auto key = [](uint32_t number, WireType type) {
    return static_cast<char>((number << kWireTypeBits) | type);
  };
  const std::string setting{key(kAddDummyPrefix, kVarint), 0};
  return std::string(model) + key(kNormalizerSpec, kLengthDelimited) +
         static_cast<char>(setting.size()) + setting;
}

}  // namespace gsa::data
