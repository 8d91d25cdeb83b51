// Back through fc2, the experts, fc1, the gate and the shared experts, each adding to the gradient of x.
#include "cuda_impl/memory/apart.hpp"
#include "cuda_impl/moe/layer_kernels.hpp"
#include "cuda_impl/moe/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

/// Through latent_norm, which was given x: from d_normed to dx, and the gradient of its weight.
void latent_norm_backward(const LayerConfig& c, const LayerWeights& w, const void* x, const LayerGradients& d,
                          const LayerBackwardWorkspace& work, void* dx, cudaStream_t stream) {
  const NormedRows rows = latent_rows(c, x, w.latent_norm);
  normed_rows_gradient(rows, work.d_normed, dx, false, work.inverse_roots, stream);
  if (d.latent_norm)
    norm_weight_gradient(rows, work.d_normed, work.inverse_roots, work.norm_parts, d.latent_norm, stream);
}

void routed_backward(const LayerConfig& c, const LayerWeights& w, const LayerInput& in, const void* dy,
                     const LayerSaved& keep, const LayerGradients& d, const LayerBackwardWorkspace& work,
                     const LayerGroups& groups, Blas& blas, cudaStream_t stream) {
  const std::int64_t tokens = c.gate.tokens;
  ExpertsGradients experts = d.experts;
  const bool before_fc2 = c.latent_norm == LatentNorm::before_fc2,
             after_fc1 = c.latent_norm == LatentNorm::after_fc1;
  void* const layers_dx = after_fc1 ? work.d_normed : c.latent ? work.d_latent : d.x;
  experts.x = c.converts() ? work.converted_dx : layers_dx;
  experts.weights = work.d_weights;
  const void* x = c.converts() ? keep.values.converted : c.latent ? keep.values.latent : in.x;
  const void* d_routed = c.latent ? work.d_routed : dy;
  if (c.latent) {
    blas.bind(stream, work.blas);
    linear_input_gradient(fc2_shape(c), dy, w.fc2_weight, before_fc2 ? work.d_normed : work.d_routed, false,
                          blas);
    linear_weight_gradient(fc2_shape(c), dy, keep.values.returned, d.fc2_weight, blas, stream);
    if (d.fc2_bias) column_sum(c.dtype(), tokens, c.gate.dim, dy, nullptr, d.fc2_bias, work.sums, stream);
    if (before_fc2) latent_norm_backward(c, w, keep.values.routed, d, work, work.d_routed, stream);
  }
  if (c.converts()) {
    convert_elements(experts_elements(c), d_routed, c.dtype(), work.converted_dy, c.experts.dtype, stream);
    d_routed = work.converted_dy;
  }
  const ExpertsInput routed{x, keep.values.dispatched, keep.values.weights,
                            in.padding_mask ? keep.values.mask : nullptr};
  if (is_spread(c))
    experts_backward(c.expert_parallel(), w.experts, routed, d_routed, *groups.expert, groups.windows,
                     keep.experts, experts, work.part, stream);
  else
    experts_backward(c.experts, w.experts, routed, d_routed, keep.experts, experts, work.part, stream);
  if (c.converts())
    convert_elements(experts_elements(c), experts.x, c.experts.dtype, layers_dx, c.dtype(), stream);
  if (!c.latent) return;
  if (after_fc1) latent_norm_backward(c, w, keep.values.projected, d, work, work.d_latent, stream);
  linear_input_gradient(fc1_shape(c), work.d_latent, w.fc1_weight, d.x, false, blas);
  linear_weight_gradient(fc1_shape(c), work.d_latent, in.x, d.fc1_weight, blas, stream);
  if (d.fc1_bias)
    column_sum(c.dtype(), tokens, c.experts.dim, work.d_latent, nullptr, d.fc1_bias, work.sums, stream);
}

void shared_backward(const LayerConfig& c, const LayerWeights& w, const LayerInput& in, const void* dy,
                     const LayerSaved& keep, const LayerGradients& d, const LayerBackwardWorkspace& work,
                     Blas& blas, cudaStream_t stream) {
  const std::int64_t tokens = c.gate.tokens;
  MLPGradients shared = d.shared;
  shared.x = d.x;
  shared.add_to_x = true;
  shared.row_scale = work.d_scale;
  mlp_backward(shared_config(c), w.shared, {in.x, keep.values.shared_scale}, dy, keep.shared, shared,
               work.part, blas, stream);
  if (!c.shared_gate) return;
  sigmoid_gradient(tokens, keep.values.shared_scale, work.d_scale, stream);
  column_sum(c.dtype(), tokens, c.gate.dim, in.x, work.d_scale, d.shared_gate, work.sums, stream);
  add_bias(c.dtype(), tokens, c.gate.dim, w.shared_gate, work.d_scale, d.x, true, stream);
}

}  // namespace

void layer_backward(const LayerConfig& c, const LayerWeights& w, const LayerInput& in, const void* dy,
                    const void* saved, const LayerGradients& d, void* workspace, Blas& blas,
                    cudaStream_t stream, const LayerGroups& groups) {
  forget_earlier_errors();
  check_config(c);
  check_groups(c, groups);
  check_apart({extent("the gradient of x", d.x, c.gate.tokens, c.gate.dim, c.dtype()),
               {"workspace", workspace, layer_backward_workspace_bytes(c)}},
              {extent("x", in.x, c.gate.tokens, c.gate.dim, c.dtype()),
               extent("dy", dy, c.gate.tokens, c.gate.dim, c.dtype()),
               {"saved", saved, layer_saved_bytes(c)}});
  Arena kept(const_cast<void*>(saved)), scratch(workspace);
  const LayerSaved keep(kept, c);
  const LayerBackwardWorkspace work(scratch, c);
  routed_backward(c, w, in, dy, keep, d, work, groups, blas, stream);
  if (!c.fake_balanced_gate)
    gate_backward(c.gate, w.gate,
                  {in.x, in.padding_mask ? keep.values.mask : nullptr, in.replay_ids, in.router_noise,
                   in.accumulated_load},
                  keep.values.ids, work.d_weights, DataType::float32, keep.gate,
                  {d.x, d.gate_weight, d.gate_bias, true, d.gate_input_scale, d.gate_expert_scale}, work.part,
                  stream);
  if (c.shared_inter_dim > 0) shared_backward(c, w, in, dy, keep, d, work, blas, stream);
}

}  // namespace moeref::cuda
