// Sort, dispatch, up product with the activation, down product, combine.
#include "combine/combine.hpp"
#include "dispatch/dispatch.hpp"
#include "experts/plan.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

ExpertRows forward_rows(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in, void* saved,
                        void* workspace, cudaStream_t stream) {
  const ExpertsPath path = selected_path(c);
  check_aligned(in.x, "x");
  check_aligned(w.gate_and_up, "gate_and_up_projs");
  check_aligned(w.down, "down_projs");
  if (w.gate_and_up_bias) check_aligned(w.gate_and_up_bias, "gate_up_proj_bias");
  Arena scratch(workspace), kept(saved);
  const ForwardWorkspace work(scratch, c);
  const Saved keep(kept, c);
  const Permutation rows =
      carve_permutation(permutation_shape(c, path), saved ? keep.permutation : work.permutation);
  sort_by_expert(permutation_shape(c, path), in.ids, in.weights, in.token_mask, rows, work.sort, stream);
  if (c.tokens == 0) return {work.rows, rows.slot_row};
  const GroupedShape shape = grouped_shape(c, path, rows);
  // `rows` holds X by row, then the rows of the result.
  dispatch(c.dtype, in.x, rows.slot_row, c.tokens, c.slots, c.dim, work.rows, stream);
  up_product(shape,
             {work.rows, w.gate_and_up, w.gate_and_up_bias, saved ? keep.h : nullptr, work.a,
              !c.apply_router_weight_after_down},
             c.activation, c.activation_parameters, stream);
  down_product(shape, {work.a, w.down, w.down_bias, work.rows, c.apply_router_weight_after_down}, stream);
  return {work.rows, rows.slot_row};
}

void experts_forward(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in, void* output,
                     void* saved, void* workspace, cudaStream_t stream) {
  check_aligned(output, "output");
  const ExpertRows rows = forward_rows(c, w, in, saved, workspace, stream);
  combine(c.dtype, rows.rows, rows.slot_row, c.tokens, c.slots, c.dim, output, stream);
}

}  // namespace moeref::cuda
