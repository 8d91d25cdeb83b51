// The gradient of the logits, then one product for each of x and the weight.
#include <algorithm>

#include "cuda_impl/gate/expert_scale.hpp"
#include "cuda_impl/gate/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

void gate_backward(const GateConfig& c, const GateParameters& w, const GateInput& in, const int* ids,
                   const void* d_weights, DataType d_weights_type, const void* saved, const GateGradients& d,
                   void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  check_given(c, w, in);
  check_matrix_type(d_weights_type, "d_weights_type");
  if (!saved) throw ArgumentError("saved is null: want what gate_forward saved");
  Arena scratch(workspace), kept(const_cast<void*>(saved));
  const GateBackwardWorkspace work(scratch, c);
  const GateSaved keep(kept, c);
  const TokenBlocks blocks = token_blocks(c);
  const DataType compute = c.compute_type(), input = input_type(c), parameter_type = c.parameter_type;
  const NormedRows tokens = gate_input_rows(c, w, in);
  const std::int64_t stride = logit_stride(c);
  const bool made = makes_input(c), wants_input_scale = c.router_input_norm && d.input_scale,
             wants_expert_scale = c.per_expert_scale && d.expert_scale;
  const auto d_logits = [&](std::int64_t row_stride, std::int64_t col_stride) {
    if (!holds_planes(c)) return Operand{work.d_logits, compute, row_stride, col_stride};
    return Operand{work.d_logits, DataType::bfloat16, row_stride, col_stride, kPlanes, c.tokens * stride};
  };
  RoutingRule rule = routing_rule(c, w.correction != nullptr);
  const void* expert_scale = c.per_expert_scale ? w.expert_scale : nullptr;
  float* scale_terms = wants_expert_scale ? work.scale_terms : nullptr;
  if (c.capacity.drops_slots()) {
    const KeptSlots slots = kept_slots(c, w, keep.dispatched, keep.raw_weights);
    kept_slots_backward(slots, d_weights, d_weights_type, {work.d_kept, scale_terms}, stream);
    d_weights = work.d_kept, d_weights_type = accumulator_type(c);
    // Weights that are divided there have their factors behind the division.
    if (slots.values) rule.route_scale = 1.0, expert_scale = nullptr, scale_terms = nullptr;
  }
  scores_backward(rule, blocks, c.tokens,
                  {keep.logits, w.correction, in.token_mask, ids, d_weights, d_weights_type,
                   c.has_load_loss() ? keep.aux_gradient : nullptr,
                   (c.loss_rule().has_further() ? 1.0 : c.aux_loss_coeff) * c.aux_loss_backward_scale,
                   expert_scale, parameter_type, c.has_z_loss() ? keep.z_inverse_n : nullptr,
                   c.z_loss_coeff * c.aux_loss_backward_scale,
                   std::max<std::int64_t>(c.tokens / c.loss_rule().sequences, 1)},
                  {work.d_logits, stride, holds_planes(c), d.bias ? work.block_sums : nullptr, scale_terms},
                  stream);
  if (wants_expert_scale) expert_scale_gradient(c, ids, work.scale_terms, d.expert_scale, stream);
  if (d.x || wants_input_scale)
    product(whole_product(c.tokens, c.dim, c.experts), d_logits(stride, 1),
            weight_operand(c, w.weight, work.weight_planes, c.dim, 1, stream), compute,
            {.stored = made ? work.d_input : d.x, .type = input, .add = !made && d.add_to_x}, stream);
  if (made && (d.x || wants_input_scale))
    normed_rows_gradient(tokens, work.d_input, d.x, d.add_to_x, work.inverse_roots, stream);
  if (wants_input_scale)
    norm_weight_gradient(tokens, work.d_input, work.inverse_roots, work.scale_parts, d.input_scale, stream);
  if (d.weight) {
    if (made) make_normed_rows(tokens, work.input, stream);
    const ProductShape shape = weight_gradient_shape(c);
    product(shape, d_logits(1, stride), {made ? work.input : in.x, input, c.dim, 1}, compute,
            {.partial = work.weight_parts}, stream);
    sum_parts(work.weight_parts, shape.splits, std::int64_t{c.experts} * c.dim, compute, parameter_type,
              d.weight, stream);
  }
  if (d.bias) sum_parts(work.block_sums, blocks.blocks, c.experts, compute, parameter_type, d.bias, stream);
}

}  // namespace moeref::cuda
