// Gate, fc1, experts, fc2, shared experts; the shared output is added to the routed one by its last product.
#include "cuda_impl/memory/apart.hpp"
#include "cuda_impl/moe/layer_kernels.hpp"
#include "cuda_impl/moe/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

void route(const LayerConfig& c, const LayerWeights& w, const LayerInput& in, const LayerOutput& out,
           const std::uint8_t* mask, const LayerValues& values, void* saved,
           const LayerForwardWorkspace& work, Group* context, cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(c.gate.tokens) * c.gate.slots * sizeof(int);
  const auto copy_ids = [&](int* to, const int* from) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  };
  if (c.fake_balanced_gate) {
    const FakeGateConfig fake{c.gate.tokens,     c.gate.dim, c.gate.experts, c.gate.slots, 0,
                              c.fake_gate_noise, c.dtype()};
    fake_balanced_gate(fake, in.x, in.fake_draws, values.ids, out.weights, values.weights, stream);
    if (in.replay_ids) copy_ids(values.ids, in.replay_ids);
  } else {
    const bool summed = context && c.gate.has_loss();
    if (summed && c.gate.loss_rule().sequences > 1)
      throw ArgumentError("loss_sequences is " + std::to_string(c.gate.loss_sequences) +
                          ": want 1 where ranks share a sequence");
    const GateStatistics statistics = summed ? work.statistics : GateStatistics{};
    const GateInput given{in.x, mask, in.replay_ids, in.router_noise, in.accumulated_load};
    gate_forward(c.gate, w.gate, given,
                 {values.ids, out.weights, values.weights, out.load, out.aux_loss, statistics, out.z_loss,
                  c.drops_slots() ? values.dispatched : nullptr, out.batch_loss, out.global_loss},
                 saved, work.part, stream);
    if (summed) {
      context->sum(statistics.counts, statistics.count_of_counts(c.gate), statistics.sums,
                   statistics.count_of_sums(c.gate), stream);
      gate_losses(c.gate, given, statistics, out.losses(), saved, stream);
    }
  }
  if (out.ids) copy_ids(out.ids, values.ids);
  if (out.dispatched_ids && c.drops_slots()) copy_ids(out.dispatched_ids, values.dispatched);
}

}  // namespace

void layer_forward(const LayerConfig& c, const LayerWeights& w, const LayerInput& in, const LayerOutput& out,
                   void* saved, void* workspace, Blas& blas, cudaStream_t stream, const LayerGroups& groups) {
  forget_earlier_errors();
  check_config(c);
  check_groups(c, groups);
  check_apart({extent("y", out.y, c.gate.tokens, c.gate.dim, c.dtype()),
               {"saved", saved, saved ? layer_saved_bytes(c) : 0},
               {"workspace", workspace, layer_forward_workspace_bytes(c)}},
              {extent("x", in.x, c.gate.tokens, c.gate.dim, c.dtype())});
  Arena kept(saved), scratch(workspace);
  const LayerSaved keep(kept, c);
  const LayerForwardWorkspace work(scratch, c);
  const LayerValues& values = saved ? keep.values : work.values;
  if (in.padding_mask) token_mask(c.gate.tokens, in.padding_mask, values.mask, stream);
  const std::uint8_t* mask = in.padding_mask ? values.mask : nullptr;
  route(c, w, in, out, mask, values, keep.gate, work, groups.context, stream);

  const void* x = in.x;
  void* y = out.y;
  if (c.latent) {
    blas.bind(stream, work.blas);
    linear_with_bias(fc1_shape(c), in.x, w.fc1_weight, w.fc1_bias, values.projected, blas, stream);
    if (c.latent_norm == LatentNorm::after_fc1)
      make_normed_rows(latent_rows(c, values.projected, w.latent_norm), values.latent, stream);
    x = values.latent, y = values.routed;
  }
  void* const layers_y = y;
  if (c.converts()) {
    convert_elements(experts_elements(c), x, c.dtype(), values.converted, c.experts.dtype, stream);
    x = values.converted, y = work.converted_y;
  }
  const ExpertsInput routed{x, values.dispatched, values.weights, mask};
  if (is_spread(c))
    experts_forward(c.expert_parallel(), w.experts, routed, y, *groups.expert, groups.windows, keep.experts,
                    work.part, stream);
  else
    experts_forward(c.experts, w.experts, routed, y, keep.experts, work.part, stream);
  if (c.converts()) convert_elements(experts_elements(c), y, c.experts.dtype, layers_y, c.dtype(), stream);
  if (c.latent_norm == LatentNorm::before_fc2)
    make_normed_rows(latent_rows(c, values.routed, w.latent_norm), values.returned, stream);
  if (c.latent)
    linear_with_bias(fc2_shape(c), values.returned, w.fc2_weight, w.fc2_bias, out.y, blas, stream);

  if (c.shared_inter_dim == 0) return;
  if (c.shared_gate) {
    row_dot(c.dtype(), c.gate.tokens, c.gate.dim, in.x, w.shared_gate, values.shared_scale, false, stream);
    sigmoid_in_place(c.gate.tokens, values.shared_scale, stream);
  }
  mlp_forward(shared_config(c), w.shared, {in.x, values.shared_scale}, out.y, true, keep.shared, work.part,
              blas, stream);
}

}  // namespace moeref::cuda
