// Matrix products with running error bounds.
//
// Every output element is one sum over k = 0, 1, 2, ... in that order, in fp64, without contraction: the same
// bits on every machine, whatever the blocking, the number of threads and the width of its vectors. Speed
// comes from computing many outputs side by side. Bound (Higham 2002, 3.1): |err| <= gamma_K sum |a||b| + sum
// (e_a |b| + |a| e_b + e_a e_b).
#pragma once

#include <cstdint>

#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// op(A) op(B), stored in `stored`: A is [M, K], or [K, M] when transposed; B is [K, N], or [N, K] when
/// transposed. `accumulate` is the type in which an honest implementation adds up the K terms.
Bounded multiply(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, DType accumulate,
                 DType stored);

/// dY^T X, the gradient of a weight [M, N] from rows of tokens, and the sum of dY's rows, that of a bias [1,
/// M]: computed in `stored`, then in the parameter's own type `held`, with the bound for parts of ranks in
/// both.
Bounded weight_gradient(const Bounded& dy, const Bounded& x, DType stored, DType held, RankRows ranks);
Bounded bias_gradient(const Bounded& dy, DType stored, DType held, RankRows ranks);

/// The same as multiply, written to `value` and `bound` (rounded up), M N elements each: for gradients of
/// whole parameters.
void multiply_into(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, DType accumulate,
                   DType stored, double* value, float* bound);

/// x W^T (+ b), a torch-style Linear: W [out, in], b [1, out].
Bounded linear(const Bounded& x, const Bounded& weight, const Bounded* bias, DType stored);

/// Which vector width the products use: the widest that the machine has, unless a test asks for another.
enum class VectorWidth : std::uint8_t { sse2, avx2, avx512 };
bool has(VectorWidth width);
void use(VectorWidth width);
VectorWidth used_width();

}  // namespace moeref
