// PyTorch's CPU generator, in those parts that the documented system draws from.
//
// Integers and uniforms have the same bits as PyTorch 2.11. So do the normals of float32 tensors on x86-64
// with AVX2: they come from the single-precision Cephes polynomials (Moshier) that PyTorch uses there, in the
// same order of operations. Other normals go through libm in PyTorch and through exact_math.hpp here: float64
// within 4 ulps of each factor; 16-bit tensors are equal unless that difference crosses a rounding boundary.
// On CPUs without AVX2 float32 differs by a few ulps. Source of the rules: PyTorch 2.11,
// ATen/native/cpu/DistributionTemplates.h and ATen/core/DistributionsHelper.h.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>

#include "moeref/tensor.hpp"

namespace moeref {

class TorchGenerator {
 public:
  /// mt19937 takes the low 32 bits of the seed, as torch.Generator.manual_seed does on the CPU.
  explicit TorchGenerator(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {}

  std::uint32_t draw() { return static_cast<std::uint32_t>(engine_()); }

  /// (draw mod 2^24) / 2^24.
  float uniform_float();

  /// The low 53 bits of two draws, the first of them the high word, / 2^53.
  double uniform_double();

  /// A standard normal. Two uniform doubles give a pair of them, of which the second is kept for the next
  /// call.
  double normal_double();

  /// torch.rand: row-major, one draw per element (float64: two). 16-bit types keep as many low bits as their
  /// significand has. Throws std::logic_error for integer dtypes.
  Tensor uniform(DType dtype, const Shape& shape);

  /// tensor.normal_(mean, std) on a contiguous tensor: 16 elements or more in blocks, where a remainder
  /// redraws the last 16; fewer through normal_double. 16-bit tensors round after every operation, as PyTorch
  /// does, so that a bfloat16 tensor never exceeds 3.4 standard deviations. Throws std::logic_error for
  /// integer dtypes.
  Tensor normal(DType dtype, const Shape& shape, double mean, double std);

 private:
  /// One uniform element as the tensor holds it.
  double uniform_element(DType dtype);

  std::mt19937 engine_;
  std::optional<double> next_normal_;
};

}  // namespace moeref
