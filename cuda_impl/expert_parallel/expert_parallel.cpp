// Forward: plan, rows out, [meeting], the experts' products, sums out, [meeting], sums. Backward: dY out,
// [meeting], gradients, sums out, [meeting], sums.
//
// Two meetings a pass are enough for the windows to be written again: what is written before a pass's first
// meeting (kept, d_output) was last read by the products of an earlier pass, before its second meeting; what
// is written between the two (rows, d_weights) was last read before this pass's first.
#include "moeref/cuda/expert_parallel.hpp"

#include <vector>

#include "expert_parallel/combine.hpp"
#include "expert_parallel/plan.hpp"
#include "experts/plan.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

/// One pass: what it needs again and again.
struct Pass {
  const ExpertParallelConfig& config;
  Group& group;
  const Window &kept, &transient;
  cudaStream_t stream;
  KeptRegions in{config};
  TransientRegions back{config};
  DispatchShape shape = dispatch_shape(config);
  std::size_t row_bytes = static_cast<std::size_t>(config.experts.dim) * bytes_of(config.experts.dtype);

  const int* received_counts() const { return kept.received<int>(in.counts); }

  /// What this rank's experts work on.
  ExpertsInput received() const {
    return {kept.received<char>(in.x), kept.received<int>(in.ids), kept.received<float>(in.weights), nullptr};
  }

  /// The experts' rows, summed for each row that was received, to where that came from; and, in backward,
  /// the gradients of its weights.
  void send_back(const ExpertRows& rows, const float* d_weights, std::optional<RowCounts> counts) const {
    const ExpertsConfig& e = config.experts;
    combine_to_ranks({received_counts(), rows.slot_row, rows.rows, e.dtype, e.dim}, config.max_tokens,
                     e.slots, config.ranks, transient.slots(back.rows), d_weights,
                     transient.slots(back.d_weights), stream);
    if (counts) std::swap(counts->to, counts->from);
    std::vector<Delivery> what{{back.rows, row_bytes}};
    if (d_weights) what.push_back({back.d_weights, static_cast<std::size_t>(e.slots) * sizeof(float)});
    group.deliver(transient, what, counts ? &*counts : nullptr, stream);
  }

  void sum(const int* place, void* out) const {
    const ExpertsConfig& e = config.experts;
    sum_returned({place, transient.received<char>(back.rows), e.dtype, e.dim}, e.tokens, config.max_tokens,
                 config.ranks, out, stream);
  }
};

}  // namespace

void experts_forward(const ExpertParallelConfig& c, const ExpertsWeights& w, const ExpertsInput& input,
                     void* output, Group& group, const ExpertParallelWindows& windows, void* saved,
                     void* workspace, cudaStream_t stream) {
  check_call(c, group, windows);
  check_aligned(input.x, "x");
  check_aligned(output, "output");
  Arena kept(saved), scratch(workspace);
  const ExpertParallelSaved keep(kept, c);
  const ExpertParallelForwardWorkspace work(scratch, c);
  const Sent& sent = saved ? keep.sent : work.sent;
  const Pass pass{c, group, *windows.kept, *windows.transient, stream};
  const KeptRegions& in = pass.in;

  plan_dispatch(pass.shape, {input.ids, input.weights, input.token_mask},
                {sent.place, sent.counts, pass.kept.slots(in.counts), pass.kept.slots(in.ids),
                 pass.kept.slots(in.weights)},
                work.dispatch, stream);
  push_rows(pass.shape, c.experts.dtype, c.experts.dim, input.x, sent.place, pass.kept.slots(in.x), stream);
  const Delivery routes[] = {{in.counts}, {in.ids}, {in.weights}}, x[] = {{in.x, pass.row_bytes}};
  std::optional<RowCounts> counts;
  if (group.needs_row_counts()) {
    group.deliver(pass.kept, routes, nullptr, stream);
    counts = group.row_counts(pass.kept, in.counts, sent.counts, stream);
  }
  group.deliver(pass.kept, x, counts ? &*counts : nullptr, stream);

  const ExpertRows rows = forward_rows(c.own(), w, pass.received(), keep.experts, work.experts, stream);
  pass.send_back(rows, nullptr, std::move(counts));
  pass.sum(sent.place, output);
}

void experts_backward(const ExpertParallelConfig& c, const ExpertsWeights& w, const ExpertsInput& input,
                      const void* d_output, Group& group, const ExpertParallelWindows& windows,
                      const void* saved, const ExpertsGradients& d, void* workspace, cudaStream_t stream) {
  check_call(c, group, windows);
  check_aligned(d_output, "d_output");
  check_aligned(d.x, "the gradient of x");
  Arena kept(const_cast<void*>(saved)), scratch(workspace);
  const ExpertParallelSaved keep(kept, c);
  const ExpertParallelBackwardWorkspace work(scratch, c);
  const Pass pass{c, group, *windows.kept, *windows.transient, stream};

  push_rows(pass.shape, c.experts.dtype, c.experts.dim, d_output, keep.sent.place,
            pass.transient.slots(pass.back.d_output), stream);
  std::optional<RowCounts> counts = group.row_counts(pass.kept, pass.in.counts, keep.sent.counts, stream);
  const Delivery dy[] = {{pass.back.d_output, pass.row_bytes}};
  group.deliver(pass.transient, dy, counts ? &*counts : nullptr, stream);

  ExpertsGradients own = d;
  own.weights = work.d_weights;
  const ExpertRows rows =
      backward_rows(c.own(), w, pass.received(), pass.transient.received<char>(pass.back.d_output),
                    keep.experts, own, work.experts, stream);
  pass.send_back(rows, work.d_weights, std::move(counts));
  pass.sum(keep.sent.place, d.x);
  gather_weight_gradients(keep.sent.place, pass.transient.received<float>(pass.back.d_weights), input.ids,
                          input.token_mask, c.experts.tokens, c.max_tokens, c.experts.slots, c.ranks,
                          pass.shape.own_experts, d.weights, stream);
}

}  // namespace moeref::cuda
