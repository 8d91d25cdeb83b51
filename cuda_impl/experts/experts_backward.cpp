// dA' with the activation's backward, weight gradients, dX, and the gradients of routing weights and biases.
// p multiplies before or after the down projection: the gradients are the same expressions either way.
#include "combine/combine.hpp"
#include "dispatch/dispatch.hpp"
#include "experts/plan.hpp"
#include "gradients/gradients.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

ExpertRows backward_rows(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in,
                         const void* d_output, const void* saved, const ExpertsGradients& d, void* workspace,
                         cudaStream_t stream) {
  const ExpertsPath path = selected_path(c);
  check_aligned(d_output, "d_output");
  check_aligned(d.gate_and_up, "the gradient of gate_and_up_projs");
  check_aligned(d.down, "the gradient of down_projs");
  const int up_width = c.up_width();
  if (c.tokens == 0) {
    const std::size_t e = static_cast<std::size_t>(c.experts) * bytes_of(c.dtype);
    check(cudaMemsetAsync(d.gate_and_up, 0, e * c.dim * up_width, stream), "cudaMemsetAsync");
    check(cudaMemsetAsync(d.down, 0, e * c.dim * c.inter_dim, stream), "cudaMemsetAsync");
    if (d.gate_and_up_bias)
      check(cudaMemsetAsync(d.gate_and_up_bias, 0, e * up_width, stream), "cudaMemsetAsync");
    if (d.down_bias) check(cudaMemsetAsync(d.down_bias, 0, e * c.dim, stream), "cudaMemsetAsync");
    return {};
  }
  Arena scratch(workspace), kept(const_cast<void*>(saved));
  const BackwardWorkspace work(scratch, c);
  const Saved keep(kept, c);
  const Permutation rows = carve_permutation(permutation_shape(c, path), keep.permutation);
  const GroupedShape shape = grouped_shape(c, path, rows);
  // `rows` holds dY by row, then X by row, and last the rows of dX.
  const auto by_row = [&](const void* tokens) {
    dispatch(c.dtype, tokens, rows.slot_row, c.tokens, c.slots, c.dim, work.rows, stream);
  };
  by_row(d_output);
  down_gradient_product(shape, {work.rows, w.down, keep.h, work.dh, work.a, work.dot_parts}, c.activation,
                        c.activation_parameters, stream);
  router_weight_gradient(c.dtype, rows, rows_of(c), c.slots, work.dot_parts, dot_parts_of(c, path), in.ids,
                         d_output, w.down_bias, c.dim, d.weights, stream);
  weight_gradient_product(shape, {work.a, work.rows, c.inter_dim, c.dim, d.down}, stream);
  by_row(in.x);
  weight_gradient_product(shape, {work.rows, work.dh, c.dim, up_width, d.gate_and_up}, stream);
  if (d.gate_and_up_bias)
    bias_gradient(c.dtype, rows, c.experts, work.dh, up_width, false, d.gate_and_up_bias, stream);
  if (d.down_bias) bias_gradient(c.dtype, rows, c.experts, d_output, c.dim, true, d.down_bias, stream);
  input_gradient_product(shape, {work.dh, w.gate_and_up, nullptr, work.rows, false}, up_width, stream);
  return {work.rows, rows.slot_row};
}

void experts_backward(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in,
                      const void* d_output, const void* saved, const ExpertsGradients& d, void* workspace,
                      cudaStream_t stream) {
  check_aligned(d.x, "the gradient of x");
  const ExpertRows rows = backward_rows(c, w, in, d_output, saved, d, workspace, stream);
  combine(c.dtype, rows.rows, rows.slot_row, c.tokens, c.slots, c.dim, d.x, stream);
}

}  // namespace moeref::cuda
