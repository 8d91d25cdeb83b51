// Quantised weights as the real numbers that they stand for.
#pragma once

#include <span>
#include <string>

#include "moeref/weight_format.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// One parameter's tensors, of the shapes of stored_weights.
struct QuantizedWeights {
  WeightFormat format = WeightFormat::none;
  ExpertsShape shape{};
  const Tensor* codes = nullptr;
  const Tensor* scales = nullptr;
  const Tensor* expert_scales = nullptr;  ///< null where the format has none
};

/// The tensors `name` + suffix. Throws InputError naming the one that is missing, and the place of a weight
/// that is not finite: a code or scale that is NaN or infinite.
QuantizedWeights find_quantized(WeightFormat format, const ExpertsShape& shape, const NamedTensors& tensors,
                                const std::string& name);

/// W [K, N] of one expert: code * scale * expert scale, which float64 holds exactly (4 + 24 bits of
/// significand for fp8, 2 + 4 + 24 for nvfp4).
void dequantize(const QuantizedWeights& weights, std::int64_t expert, std::span<double> out);

/// The powers of two [K, N] of e4m3 codes (e4m3_power) times the magnitudes of their scales.
void code_powers(const QuantizedWeights& weights, std::int64_t expert, std::span<double> out);

/// The same as dequantize for products in the type `compute`. The bound of a weight is what rounding to that
/// type moves it, by way of float32 where the format's product does not fit that; weights that `compute`
/// holds are exact.
void load_into(Bounded& out, const QuantizedWeights& weights, std::int64_t expert, DType compute);

}  // namespace moeref
