// Element types of arrays on the device.
#pragma once

#include <cstddef>

namespace moeref::cuda {

enum class DataType { bfloat16, float16, float32, float64, int32, int64, uint8 };

constexpr std::size_t bytes_of(DataType type) {
  switch (type) {
    case DataType::uint8:
      return 1;
    case DataType::bfloat16:
    case DataType::float16:
      return 2;
    case DataType::float32:
    case DataType::int32:
      return 4;
    case DataType::float64:
    case DataType::int64:
      break;
  }
  return 8;
}

/// Whether activations, parameters and their gradients may have the type; sums are in fp32 for all.
constexpr bool is_matrix_type(DataType type) {
  return type == DataType::bfloat16 || type == DataType::float16 || type == DataType::float32;
}

}  // namespace moeref::cuda
