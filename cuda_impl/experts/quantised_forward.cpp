// The products of a forward pass whose operands are both quantised (SPEC.md 11.1): each row becomes the
// numbers of its codes, and the weights those of theirs, in float32, whose products add them up: on the
// path of the config, by multiply-adds or by planes.
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/experts/quantised_rows.hpp"
#include "cuda_impl/quantization/quantize_rows.hpp"

namespace moeref::cuda {

void ForwardPass::multiply_quantised(int chunk, cudaStream_t stream) const {
  const ExpertsConfig& c = config_;
  const ChunkRows rows{permutation_.offsets, c.experts, permutation_.chunks, chunk, rows_of(c)};
  const bool after_down = c.apply_router_weight_after_down;
  /// work_.sums [R, width] = q(operand) [R, k] times weights [E, k, width].
  const auto product = [&](const void* operand, int k, int width, const void* weights) {
    quantize_rows(c.activation_format, c.dtype, rows, operand, k, work_.operand, stream);
    ExpertsConfig in_float32 = c;
    in_float32.dtype = DataType::float32, in_float32.inter_dim = k, in_float32.dim = width;
    down_product(grouped_shape(in_float32, path_, permutation_, work_.tickets, chunk),
                 {work_.operand, weights, nullptr, work_.sums, false}, stream);
  };
  product(work_.rows, c.dim, c.up_width(), work_.numbers.gate_and_up);
  store_up_sums(c.dtype,
                {rows, work_.sums, weights_.gate_and_up_bias, after_down ? nullptr : permutation_.row_weight,
                 c.inter_dim, h_, work_.a},
                c.activation, c.activation_parameters, stream);
  product(work_.a, c.inter_dim, c.dim, work_.numbers.down);
  store_down_sums(
      c.dtype,
      {rows, work_.sums, weights_.down_bias, permutation_.row_weight, after_down, c.dim, o_, work_.rows},
      stream);
}

}  // namespace moeref::cuda
