// plan, then for every chunk push, gather, products and the sums on their way back; the sums here. See
// moeref/cuda/expert_parallel.hpp for what goes on at the same time.
#include "moeref/cuda/expert_parallel.hpp"

#include <utility>
#include <vector>

#include "expert_parallel/combine.hpp"
#include "expert_parallel/plan.hpp"
#include "experts/passes.hpp"

namespace moeref::cuda {
namespace {

/// One call of one rank. What `main` and the group's side stream do is ordered by marks.
struct Pass {
  const ExpertParallelConfig& config;
  Group& group;
  const Window &kept, &transient;
  cudaStream_t main;
  cudaStream_t side = group.side();
  KeptRegions in{config};
  TransientRegions back{config};
  DispatchShape shape = dispatch_shape(config);
  TokenChunks chunks = token_chunks(config);
  std::size_t row_bytes = static_cast<std::size_t>(config.experts.dim) * bytes_of(config.experts.dtype);
  std::optional<RowCounts> counts = {};  // of rows that go out

  const int* received_counts() const { return kept.received<int>(in.counts); }

  /// What this rank's experts work on.
  ExpertsInput received() const {
    return {kept.received<char>(in.x), kept.received<int>(in.ids), kept.received<float>(in.weights), nullptr};
  }

  RowRange range(int chunk) const { return {chunks.first(chunk), chunks.tokens(chunk)}; }
  Delivery rows_of(Region region, RowRange which, Outbox outbox) const {
    return {region, row_bytes, which.first, which.count, outbox};
  }

  /// Rows of tokens to the ranks of their experts, on the side stream; returns when they are there.
  cudaEvent_t push(int chunk, const void* rows, const int* place, const Window& window, Region region) const {
    const Outbox outbox = outbox_of_rows(config);
    push_rows(shape, config.experts.dtype, config.experts.dim, rows, place, window.slots(region, outbox),
              range(chunk), side);
    const Delivery what[] = {rows_of(region, range(chunk), outbox)};
    group.deliver(window, what, counts ? &*counts : nullptr, side);
    return group.mark(side);
  }

  /// Calls work(chunk) when the chunk's rows are there, with the next one on its way.
  template <class Work>
  void for_chunks(const void* rows, const int* place, const Window& window, Region region,
                  const Work& work) const {
    cudaEvent_t there = push(0, rows, place, window, region);
    for (int chunk = 0; chunk < chunks.count; ++chunk) {
      const cudaEvent_t now = there;
      if (chunk + 1 < chunks.count) there = push(chunk + 1, rows, place, window, region);
      group.wait(main, now);
      work(chunk);
    }
  }

  /// The experts' rows, summed for each row that was received, to where that came from; in backward with the
  /// gradients of its weights. Summed on the main stream, staged ones sent on the side.
  void send_back(const ExpertRows& rows, RowRange which, Outbox outbox, const float* d_weights) const {
    const ExpertsConfig& e = config.experts;
    combine_to_ranks({received_counts(), rows.slot_row, rows.rows, e.dtype, e.dim}, config.max_tokens,
                     e.slots, {config.ranks, group.rank()}, which, transient.slots(back.rows, outbox),
                     d_weights, transient.slots(back.d_weights, outbox), main);
    group.wait(side, group.mark(main));
    std::optional<RowCounts> returned = counts;
    if (returned) std::swap(returned->to, returned->from);
    std::vector<Delivery> what{rows_of(back.rows, which, outbox)};
    if (d_weights)
      what.push_back({back.d_weights, static_cast<std::size_t>(e.slots) * sizeof(float), which.first,
                      which.count, outbox});
    group.send(transient, what, returned ? &*returned : nullptr, side);
  }

  /// All that was sent back is there.
  void meet() const {
    group.meet(side);
    group.wait(main, group.mark(side));
  }

  void sum(const int* place, void* out) const {
    const ExpertsConfig& e = config.experts;
    sum_returned({place, transient.received<char>(back.rows), e.dtype, e.dim}, e.tokens, config.max_tokens,
                 config.ranks, out, main);
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
  Pass pass{c, group, *windows.kept, *windows.transient, stream};
  const KeptRegions& in = pass.in;
  const ForwardPass experts(c.own(), pass.chunks, w, pass.received(), saved ? keep.experts : nullptr,
                            work.experts);

  plan_dispatch(pass.shape, {input.ids, input.weights, input.token_mask},
                {sent.place, sent.counts, pass.kept.slots(in.counts), pass.kept.slots(in.ids),
                 pass.kept.slots(in.weights)},
                work.dispatch, stream);
  const Delivery routes[] = {{in.counts}, {in.ids}, {in.weights}};
  group.deliver(pass.kept, routes, nullptr, stream);
  pass.counts = group.row_counts(pass.kept, in.counts, sent.counts, stream);
  group.wait(pass.side, group.mark(stream));
  experts.sort(stream);
  pass.for_chunks(input.x, sent.place, pass.kept, in.x, [&](int chunk) {
    experts.gather(chunk, stream);
    experts.multiply(chunk, stream);
    pass.send_back(experts.rows(), pass.range(chunk), outbox_of_rows(c), nullptr);
  });
  pass.meet();
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
  Pass pass{c, group, *windows.kept, *windows.transient, stream};
  const TransientRegions& back = pass.back;
  ExpertsGradients own = d;
  own.weights = work.d_weights;
  const BackwardPass experts(c.own(), pass.chunks, w, pass.received(),
                             pass.transient.received<char>(back.d_output), keep.experts, own, work.experts,
                             RowsOfX::apart);

  pass.counts = group.row_counts(pass.kept, pass.in.counts, keep.sent.counts, stream);
  group.wait(pass.side, group.mark(stream));
  experts.gather_x(stream);
  pass.for_chunks(d_output, keep.sent.place, pass.transient, back.d_output, [&](int chunk) {
    experts.gather_dy(chunk, stream);
    experts.activation_gradient(chunk, stream);
  });
  experts.router_weights(stream);
  experts.down_weights(stream);
  experts.input_gradient(stream);
  pass.send_back(experts.rows(), {0, c.max_tokens}, Outbox::staged, work.d_weights);
  experts.up_weights(stream);
  pass.meet();
  pass.sum(keep.sent.place, d.x);
  gather_weight_gradients(keep.sent.place, pass.transient.received<float>(back.d_weights), input.ids,
                          input.token_mask, c.experts.tokens, c.max_tokens, c.experts.slots, c.ranks,
                          pass.shape.own_experts, d.weights, stream);
}

}  // namespace moeref::cuda
