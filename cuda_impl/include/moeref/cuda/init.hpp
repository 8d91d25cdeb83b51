// Initialisation of parameters (SPEC.md 7) from the reference's counter-based generator: the same bits as the
// CPU reference, for every order, parts or ranks in which a tensor is drawn. Asynchronous and
// capturable.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// out[i] = deviation * normal(first + i) of CounterGenerator(seed, "init/" parameter), rounded once to
/// `type`, for i in [0, count). A rank that holds experts [a, b) of [E, n] passes first = a n and count = (b
/// - a) n. Throws ArgumentError for a negative first, count or deviation, and for a type
/// other than bfloat16, float16 and float32.
void init_normal(std::uint64_t seed, std::string_view parameter, double deviation, std::int64_t first,
                 std::int64_t count, DataType type, void* out, cudaStream_t stream);

}  // namespace moeref::cuda
