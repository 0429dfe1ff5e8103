// Element types of tensors and the devices they lie on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gsa {

enum class DType : uint8_t { float64, float32, bfloat16, int32, int16, byte };

// Size of one element in bytes.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return 8;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::bfloat16:
    case DType::int16:
      return 2;
    case DType::byte:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return "float64";
    case DType::float32:
      return "float32";
    case DType::bfloat16:
      return "bfloat16";
    case DType::int32:
      return "int32";
    case DType::int16:
      return "int16";
    case DType::byte:
      return "byte";
  }
  return "?";
}

// Brain floating point as it lies in memory: the upper half of a float32. The CPU only stores and
// converts it; arithmetic in it is the GPU's.
struct bfloat16_t {
  uint16_t bits;
};

// The DType of a C++ element type.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::float64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::float32;
};
template <>
struct DTypeOf<bfloat16_t> {
  static constexpr DType value = DType::bfloat16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::int32;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::int16;
};
template <>
struct DTypeOf<std::byte> {
  static constexpr DType value = DType::byte;
};

enum class Device : uint8_t { cpu, cuda };

constexpr const char* name_of(Device device) {
  return device == Device::cpu ? "cpu" : "cuda";
}

}  // namespace gsa
