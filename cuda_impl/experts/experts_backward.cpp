// dA' with the activation's backward, weight gradients, dX, and the gradients of routing weights and biases.
// p multiplies before or after the down projection: the gradients are the same expressions either way. Where
// it multiplies the input, row_weight is 1, and the gradient of p is found beside that of x.
#include "cuda_impl/experts/gradients.hpp"
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/memory/apart.hpp"
#include "cuda_impl/permutation/permute.hpp"
#include "cuda_impl/permutation/unpermute.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

BackwardPass::BackwardPass(const ExpertsConfig& c, const TokenChunks& chunks, const ExpertsWeights& w,
                           const ExpertsInput& in, const void* d_output, const void* saved,
                           const ExpertsGradients& d, void* workspace, RowsOfX x)
    : config_(c),
      chunks_(chunks),
      weights_(w),
      input_(in),
      d_output_(d_output),
      gradients_(d),
      path_(selected_path(c)),
      work_(laid_out<BackwardWorkspace>(workspace, c, x)),
      h_(laid_out<Saved>(const_cast<void*>(saved), c, chunks).h),
      o_(laid_out<Saved>(const_cast<void*>(saved), c, chunks).o),
      permutation_(carve_permutation(permutation_shape(c, path_, chunks),
                                     laid_out<Saved>(const_cast<void*>(saved), c, chunks).permutation)) {
  check_aligned(d_output, "d_output");
  check_aligned(d.gate_and_up, "the gradient of gate_and_up_projs");
  check_aligned(d.down, "the gradient of down_projs");
}

GroupedShape BackwardPass::shape(int chunk) const {
  return grouped_shape(config_, path_, permutation_, work_.tickets, chunk);
}

void BackwardPass::gather(const void* tokens, RowRange range, void* rows, cudaStream_t stream) const {
  permute(config_.dtype, tokens, permutation_.slot_row, {config_.tokens, chunks_.period, range},
          config_.slots, config_.dim, rows, stream);
}

void BackwardPass::gather_dy(int chunk, cudaStream_t stream) const {
  gather(d_output_, chunks_.range(chunk), work_.rows, stream);
}

void BackwardPass::activation_gradient(int chunk, cudaStream_t stream) const {
  if (config_.tokens == 0) return;
  if (chunk == 0) clear_tickets(work_.tickets, stream), work_.numbers.make(config_, weights_, stream);
  const void* weights = work_.numbers.instead_of(weights_).down;
  down_gradient_product(shape(chunk), {work_.rows, weights, h_, work_.dh, work_.a, work_.dot_parts},
                        config_.activation, config_.activation_parameters, stream);
}

void BackwardPass::router_weights(cudaStream_t stream) const {
  if (config_.router_weight_on_input) return;
  if (quantises(config_) && config_.apply_router_weight_after_down)
    return output_weight_gradient(config_.dtype, permutation_, slots_of(config_), config_.slots, d_output_,
                                  o_, config_.dim, gradients_.weights, stream);
  router_weight_gradient(config_.dtype, permutation_, slots_of(config_), config_.slots, work_.dot_parts,
                         dot_parts_of(config_, path_), input_.ids, d_output_, weights_.down_bias, config_.dim,
                         gradients_.weights, stream);
}

void BackwardPass::down_weights(cudaStream_t stream) const {
  const ExpertsConfig& c = config_;
  if (c.tokens == 0)
    return zero_parameters(c.inter_dim, c.dim, gradients_.down, c.dim, gradients_.down_bias, stream);
  if (gradients_.down)
    weight_gradient_product(shape(), {work_.a, work_.rows, c.inter_dim, c.dim, gradients_.down}, stream);
  if (gradients_.down_bias)
    bias_gradient(c.dtype, permutation_, c.experts, d_output_, c.dim, true, gradients_.down_bias, stream);
}

void BackwardPass::gather_x(cudaStream_t stream) const {
  const RowRange all{0, chunks_.period};
  if (!config_.router_weight_on_input) return gather(input_.x, all, work_.x_rows, stream);
  permute_weighted(config_.dtype, input_.x, input_.weights, permutation_.slot_row,
                   {config_.tokens, chunks_.period, all}, config_.slots, config_.dim, work_.x_rows,
                   permutation_.row_weight, stream);
}

void BackwardPass::up_weights(cudaStream_t stream) const {
  const ExpertsConfig& c = config_;
  const int width = c.up_width();
  if (c.tokens == 0)
    return zero_parameters(c.dim, width, gradients_.gate_and_up, width, gradients_.gate_and_up_bias, stream);
  if (gradients_.gate_and_up)
    weight_gradient_product(shape(), {work_.x_rows, work_.dh, c.dim, width, gradients_.gate_and_up}, stream);
  if (gradients_.gate_and_up_bias)
    bias_gradient(c.dtype, permutation_, c.experts, work_.dh, width, false, gradients_.gate_and_up_bias,
                  stream);
}

void BackwardPass::input_gradient(cudaStream_t stream) const {
  if (config_.tokens == 0) return;
  const void* weights = work_.numbers.instead_of(weights_).gate_and_up;
  for (int chunk = 0; chunk < chunks_.count; ++chunk)
    input_gradient_product(shape(chunk), {work_.dh, weights, nullptr, work_.rows, false}, config_.up_width(),
                           stream);
  if (config_.router_weight_on_input)
    input_weight_gradient(config_.dtype, permutation_, slots_of(config_), config_.slots, input_.x,
                          input_.weights, config_.dim, work_.rows, gradients_.weights, stream);
}

/// Where no token is.
void BackwardPass::zero_parameters(std::size_t height, std::size_t width, void* matrix,
                                   std::size_t bias_width, void* bias, cudaStream_t stream) const {
  const std::size_t expert = static_cast<std::size_t>(config_.experts) * bytes_of(config_.dtype);
  if (matrix) check(cudaMemsetAsync(matrix, 0, expert * height * width, stream), "cudaMemsetAsync");
  if (bias) check(cudaMemsetAsync(bias, 0, expert * bias_width, stream), "cudaMemsetAsync");
}

void experts_backward(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in,
                      const void* d_output, const void* saved, const ExpertsGradients& d, void* workspace,
                      cudaStream_t stream) {
  forget_earlier_errors();
  check_no_limit(c);
  check_aligned(d.x, "the gradient of x");
  check_apart({extent("the gradient of x", d.x, c.tokens, c.dim, c.dtype),
               extent("the gradient of weights", d.weights, c.tokens, c.slots, DataType::float32),
               {"workspace", workspace, backward_workspace_bytes(c)}},
              {extent("x", in.x, c.tokens, c.dim, c.dtype),
               extent("d_output", d_output, c.tokens, c.dim, c.dtype),
               extent("weights", in.weights, c.tokens, c.slots, DataType::float32),
               {"saved", saved, saved_bytes(c)}});
  const BackwardPass pass(c, one_chunk(c), w, in, d_output, saved, d, workspace, RowsOfX::with_dy);
  pass.gather_dy(0, stream);
  pass.activation_gradient(0, stream);
  pass.router_weights(stream);
  pass.down_weights(stream);
  pass.gather_x(stream);
  pass.up_weights(stream);
  pass.input_gradient(stream);
  unpermute(c.dtype, pass.rows().rows, pass.rows().slot_row, c.tokens, c.slots, c.dim, d.x, stream,
            input_slots(c, in, d_output));
  input_slot_gradients(c.dtype, input_slots(c, in, in.x), d_output, c.tokens, c.dim, d.weights, stream);
}

}  // namespace moeref::cuda
