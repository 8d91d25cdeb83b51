// The element types that the CUDA implementation computes in; sums are in fp32 for both.
#pragma once

#include <cstddef>

namespace moeref::cuda {

enum class DataType { float32, bfloat16 };

constexpr std::size_t bytes_of(DataType type) { return type == DataType::float32 ? 4 : 2; }

}  // namespace moeref::cuda
