// The products of a forward pass whose operands are both quantised (SPEC.md 11.1): of codes by codes, where
// the path has such; else each row becomes the numbers of its codes, and the weights those of theirs, in
// float32, whose products add them up by multiply-adds or by planes.
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/experts/quantised_rows.hpp"

namespace moeref::cuda {
void ForwardPass::multiply_codes(const ChunkRows& rows, const RowSource& x, cudaStream_t stream) const {
  const ExpertsConfig& c = config_;
  const bool after_down = c.apply_router_weight_after_down;
  GroupedShape shape = grouped_shape(c, path_, permutation_, work_.tickets, rows.chunk);
  shape.format = c.weight_format;
  CodedRows coded = coded_rows(work_.operand, rows.room, c.dim);
  quantize_rows(c.activation_format, rows, x, c.dim, coded, stream);
  up_product(shape,
             {nullptr, coded.codes, weights_.gate_and_up, weights_.gate_and_up_bias, h_, work_.a, !after_down,
              weights_.gate_and_up_scales, coded.scales},
             c.activation, c.activation_parameters, stream);
  coded = coded_rows(work_.operand, rows.room, c.inter_dim);
  quantize_rows(c.activation_format, rows, {work_.a, rows.room, nullptr}, c.inter_dim, coded, stream);
  const auto down = [&](void* out, bool weighted) {
    GroupedShape s = shape;
    if (!weighted) s.permutation.row_weight = nullptr;
    down_product(s,
                 {coded.codes, weights_.down, weights_.down_bias, out, weighted && after_down,
                  weights_.down_scales, coded.scales},
                 stream);
  };
  if (o_) down(o_, false);  // before their weights, for backward, which cannot find them again
  down(work_.rows, true);
}

void ForwardPass::multiply_quantised(int chunk, cudaStream_t stream) const {
  const ExpertsConfig& c = config_;
  const ChunkRows rows{permutation_.offsets, c.experts, permutation_.chunks, chunk, rows_of(c)};
  const RowSource x = takes_tokens() ? RowSource{input_.x, c.tokens, permutation_.slot_row, c.slots}
                                     : RowSource{work_.rows, rows.room, nullptr};
  if (reads_codes(c, path_)) return multiply_codes(rows, x, stream);
  const bool after_down = c.apply_router_weight_after_down;
  /// work_.sums [R, width] = q(operand) [R, k] times weights [E, k, width].
  const auto product = [&](const RowSource& operand, int k, int width, const void* weights) {
    quantize_rows(c.activation_format, c.dtype, rows, operand, k, work_.operand, stream);
    ExpertsConfig in_float32 = c;
    in_float32.dtype = DataType::float32, in_float32.inter_dim = k, in_float32.dim = width;
    down_product(grouped_shape(in_float32, path_, permutation_, work_.tickets, chunk),
                 {work_.operand, weights, nullptr, work_.sums, false}, stream);
  };
  product(x, c.dim, c.up_width(), work_.numbers.gate_and_up);
  store_up_sums(c.dtype,
                {rows, work_.sums, weights_.gate_and_up_bias, after_down ? nullptr : permutation_.row_weight,
                 c.inter_dim, h_, work_.a},
                c.activation, c.activation_parameters, stream);
  product({work_.a, rows.room, nullptr}, c.inter_dim, c.dim, work_.numbers.down);
  store_down_sums(
      c.dtype,
      {rows, work_.sums, weights_.down_bias, permutation_.row_weight, after_down, c.dim, o_, work_.rows},
      stream);
}

}  // namespace moeref::cuda
