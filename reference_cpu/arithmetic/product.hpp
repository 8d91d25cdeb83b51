// Matrix products with running error bounds.
//
// Every output element is one sum over k = 0, 1, 2, ... in that order, in fp64, without contraction: the same
// bits on every machine, with any blocking, number of threads and vector width. Speed
// comes from computing many outputs side by side. Bound (Higham 2002, 3.1): |err| <= gamma_K sum |a||b| + sum
// (e_a |b| + |a| e_b + e_a e_b).
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/float32_products.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// How an honest implementation makes a product's sums.
struct Sums {
  DType accumulate = DType::float32;  ///< in which it adds up the K terms
  bool tf32_operands = false;         ///< whether it rounds the operands to TF32 before it multiplies
};

/// The sums of products of tensors of `dtype`, under the call's option `float32_products`.
Sums sums_of(DType dtype, Float32Products products);

/// op(A) op(B), stored in `stored`: A is [M, K], or [K, M] when transposed; B is [K, N], or [N, K] when
/// transposed. `lost` [M, N] is what sums may lose beside the roundings of `sums`; empty = nothing.
Bounded multiply(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, const Sums& sums,
                 DType stored, const std::vector<double>& lost = {});

/// The gradient of a weight [M, N], dY^T X over rows of tokens, and the gradient of a bias [1, M], the sum of
/// dY's rows. Both are rounded to `stored`, then to the parameter's own type `held`; their bounds allow for
/// sums over the parts of several ranks (bound_rank_parts).
Bounded weight_gradient(const Bounded& dy, const Bounded& x, const Sums& sums, DType stored, DType held,
                        RankRows ranks);
Bounded bias_gradient(const Bounded& dy, DType stored, DType held, RankRows ranks);

/// multiply, written to `value` and `bound` (rounded up), M N elements each: for gradients of parameters in
/// their place.
void multiply_into(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, const Sums& sums,
                   DType stored, double* value, float* bound);

/// x W^T (+ b), as torch.nn.Linear computes it: W [out, in], b [1, out].
Bounded linear(const Bounded& x, const Bounded& weight, const Bounded* bias, const Sums& sums, DType stored);

/// The vector width that the products use: the widest that the machine has, unless a test asks for another.
enum class VectorWidth : std::uint8_t { sse2, avx2, avx512 };
bool has(VectorWidth width);
void use(VectorWidth width);
VectorWidth used_width();

}  // namespace moeref
