// Logits, then everything else over them, then the sums of the blocks: three launches; one more for the
// z-loss; and where experts are of limited capacity, the slots that they take and the weights of these.
#include "cuda_impl/aux_loss/statistics.hpp"
#include "cuda_impl/gate/layout.hpp"
#include "cuda_impl/gate/z_loss.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

/// The caller's array, or else the one of the workspace.
template <class T>
T* or_else(T* wanted, T* otherwise) {
  return wanted ? wanted : otherwise;
}

/// After the selection, whose weights went to `raw` where they are divided after dropping.
void drop_slots(const GateConfig& c, const GateParameters& w, const GateInput& in, const GateOutput& out,
                const float* order, const void* raw, int* dispatched, void* workspace, cudaStream_t stream) {
  limit_capacity(capacity_shape(c), c.capacity, out.ids, order, in.token_mask, c.null_id, dispatched,
                 workspace, stream);
  weigh_kept_slots(kept_slots(c, w, dispatched, raw),
                   {scores_type(c), out.weights, c.weights_type(), out.weights_float}, stream);
}

AuxStatistics aux_statistics(const GateConfig& c, const GateStatistics& s) {
  if (!s.counts) return {};
  return {s.counts, s.counts + 1, c.has_load_loss() ? s.sums : nullptr,
          c.loss_rule().first_choice ? s.counts + 1 + c.experts : nullptr};
}
double* squares(const GateConfig& c, const GateStatistics& s) {
  return s.sums ? s.sums + (c.has_load_loss() ? c.experts : 0) : nullptr;
}

}  // namespace

void gate_forward(const GateConfig& c, const GateParameters& w, const GateInput& in, const GateOutput& out,
                  void* saved, void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  check_given(c, w, in);
  Arena scratch(workspace), kept(saved);
  const GateForwardWorkspace work(scratch, c);
  const GateSaved keep(kept, c);
  const TokenBlocks blocks = route_blocks(c);
  const ProductShape shape = logits_shape(c);
  if (makes_input(c)) make_normed_rows(gate_input_rows(c, w, in), work.input, stream);
  const int partial_sums = product(shape, {makes_input(c) ? work.input : in.x, input_type(c), c.dim, 1},
                                   weight_operand(c, w.weight, work.weight_planes, 1, c.dim, stream),
                                   c.compute_type(), {.partial = work.partial_logits}, stream);

  const AuxStatistics for_ranks = aux_statistics(c, out.statistics);
  const bool wants_sums = c.has_load_loss();
  RouteOutput routed{};
  routed.ids = out.ids;
  routed.weights = out.weights;
  routed.weights_type = c.weights_type();
  routed.weights_float = out.weights_float;
  void* const raw = saved ? keep.raw_weights : work.raw_weights;
  if (c.capacity.drops_slots()) routed.weights_float = or_else(out.weights_float, work.order_weights);
  if (c.divides_after_dropping()) routed.weights = raw, routed.weights_type = accumulator_type(c);
  routed.logits = saved ? keep.logits : nullptr;
  routed.block_load = work.block_load;
  routed.block_tokens = work.block_tokens;
  routed.block_sums = wants_sums ? work.block_sums : nullptr;
  routed.block_first_choices = c.loss_rule().first_choice ? work.block_first_choices : nullptr;
  routed.block_squares = c.has_z_loss() ? work.block_squares : nullptr;
  const RoutingRule rule = routing_rule(c, w.correction != nullptr);
  RouteInput logits{work.partial_logits, partial_sums,  w.bias,        c.parameter_type,
                    w.correction,        in.token_mask, in.replay_ids, nullptr};
  if (c.per_expert_scale) logits.expert_scale = w.expert_scale;
  if (c.balances_selection() && !in.replay_ids) {
    balance(rule, c.tokens, logits, c.sinkhorn_tolerance, work.balanced, stream);
    logits.token_factors = work.balanced.tokens, logits.expert_factors = work.balanced.experts;
  }
  route_tokens(rule, blocks, c.tokens, logits, routed, stream);
  if (c.capacity.drops_slots()) {
    int* const dispatched = saved ? keep.dispatched : or_else(out.dispatched_ids, work.dispatched);
    drop_slots(c, w, in, out, routed.weights_float, raw, dispatched, work.capacity, stream);
    if (out.dispatched_ids && dispatched != out.dispatched_ids)
      check(cudaMemcpyAsync(out.dispatched_ids, dispatched,
                            static_cast<std::size_t>(c.tokens) * c.slots * sizeof(int),
                            cudaMemcpyDeviceToDevice, stream),
            "cudaMemcpyAsync");
  }

  AuxStatistics statistics{work.real_tokens, out.load ? out.load : work.load, nullptr};
  if (wants_sums) statistics.score_sum = work.score_sum;
  BlockStatistics parts{work.block_load,   work.block_tokens,          routed.block_sums,
                        sum_bytes(c) == 8, blocks.blocks_per_sequence, routed.block_first_choices};
  FinishedStatistics finished{statistics, for_ranks, nullptr, nullptr};
  if (c.has_aux_loss()) finished.loss = out.aux_loss;
  if (c.has_load_loss()) finished.gradient = saved ? keep.aux_gradient : nullptr;
  finish_statistics(c.experts, loss_rule(c, in), parts, finished, work.sequences, stream,
                    {out.batch_loss, out.global_loss});
  if (c.has_z_loss())
    finish_z_loss(work.block_squares, work.block_tokens, blocks.blocks,
                  {squares(c, out.statistics), out.z_loss, saved ? keep.z_inverse_n : nullptr}, stream);
}

void gate_losses(const GateConfig& c, const GateInput& in, const GateStatistics& sum,
                 const GateLosses& losses, void* saved, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  Arena kept(saved);
  const GateSaved keep(kept, c);
  if (c.has_load_loss())
    aux_loss_from_statistics(
        c.experts, loss_rule(c, in), aux_statistics(c, sum), c.has_aux_loss() ? losses.aux_loss : nullptr,
        saved ? keep.aux_gradient : nullptr, stream, {losses.batch_loss, losses.global_loss});
  if (c.has_z_loss())
    z_loss_from_sums(squares(c, sum), sum.counts,
                     {nullptr, losses.z_loss, saved ? keep.z_inverse_n : nullptr}, stream);
}

}  // namespace moeref::cuda
