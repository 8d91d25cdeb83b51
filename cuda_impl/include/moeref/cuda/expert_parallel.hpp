// Routed experts spread over the ranks of a group (SPEC.md 8): rank r of n holds experts r E/n to (r+1) E/n -
// 1, tokens may be spread unevenly and a rank may have none. Both documented exchanges: all-gather of the
// tokens, then sums of what every rank has for them; and all-to-all, one row for each (token, rank) that has
// work there, summed there before it goes back.
//
// With several chunks the rows travel, and are worked on, in so many parts: while the experts multiply one,
// the copy engines bring the next one and take the last one back. In backward the gradient of x returns while
// that of the up projection is computed. On several streams, which the caller's waits for in the end.
//
// As the experts of one device, no call looks at values on the host and all may be captured in a CUDA graph,
// except where rows travel over NCCL: there each pass waits once for the stream, to know how many. Results
// are the same bits on every run, and for every number of ranks and chunks wherever no sum rounds: each
// token's parts are added in the order of the ranks, and a parameter's gradient runs over the tokens in the
// order of chunks, ranks and rows.
#pragma once

#include <algorithm>

#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/group.hpp"

namespace moeref::cuda {

enum class Exchange { all_gather, all_to_all };

struct ExpertParallelConfig {
  ExpertsConfig experts;    // tokens: of this rank; experts: of all ranks
  int ranks = 1;            // n, a divisor of experts
  std::int64_t max_tokens;  // M, no rank has more; the same on all ranks, as all below
  Exchange exchange = Exchange::all_to_all;
  // Parts of M; chunks * experts / n at most 1024. Several pay where rows take long beside the products: of
  // two ranks none, of four and eight 3 or 4 (tools/bench/results/2026-11-30-h200-eight-ranks.md).
  int chunks = 1;
  // Rows, that is slots with one of a rank's own experts, for which a rank has room: H and the workspaces are
  // as large. 0: for the worst case, most_rows(). An even routing gives M k. More is an error on all ranks:
  // Group::synchronize throws it, Group::overflow tells it after a graph, and until then nothing is written
  // beyond the room, and results mean nothing.
  std::int64_t max_rows = 0;
  // Rows of tokens, one for each (token, rank) with work there, for which the windows have room: of those
  // that arrive, and of those that come back. 0: for all that may come, max_rows among them. More is the same
  // error. For all_to_all in one chunk.
  std::int64_t max_token_rows = 0;

  /// All slots of all ranks; where the ids of a token differ from each other no more than
  /// most_rows_of_distinct_ids().
  std::int64_t most_rows() const { return ranks * max_tokens * experts.slots; }
  std::int64_t most_rows_of_distinct_ids() const {
    return ranks * max_tokens * std::min(experts.slots, experts.experts / ranks);
  }
  /// Whether rows of tokens lie in the windows one after another, where counts say, which the ranks then tell
  /// each other first: when that takes less memory than M rows for each rank.
  bool packed() const {
    return exchange == Exchange::all_to_all && chunks == 1 && window_rows() < ranks * max_tokens;
  }
  /// The most rows of tokens that may arrive at a rank that has room for them, and that may come back.
  std::int64_t most_arrivals() const {
    return at_most(at_most(ranks * max_tokens, max_rows), max_token_rows);
  }
  std::int64_t most_returns() const {
    return at_most(std::min(ranks, experts.slots) * max_tokens, max_token_rows);
  }
  std::int64_t window_rows() const { return std::max(most_arrivals(), most_returns()); }

  /// What this rank's own experts may get: M tokens from each rank, or those there is room for.
  ExpertsConfig own() const {
    ExpertsConfig c = experts;
    c.identity_experts = 0;  // of tokens where they are
    c.tokens = packed() ? most_arrivals() : ranks * max_tokens, c.experts = experts.experts / ranks;
    c.max_rows = std::min(max_rows, c.tokens * c.slots), c.expected_rows = max_tokens * experts.slots;
    return c;
  }

 private:
  static std::int64_t at_most(std::int64_t rows, std::int64_t limit) {
    return limit > 0 ? std::min(rows, limit) : rows;
  }
};

/// Memory that the peers write, made once; collective. `kept` holds what a layer received until its backward
/// pass is queued: one for each layer in flight. `transient` serves all layers of one config that run on one
/// stream. Throw as Group::window.
Window kept_window(const ExpertParallelConfig& config, Group& group);
Window transient_window(const ExpertParallelConfig& config, Group& group);
struct ExpertParallelWindows {
  const Window *kept, *transient;
};

/// Beside the windows, with `own()` for the config of the experts: see moeref/cuda/experts.hpp.
std::size_t saved_bytes(const ExpertParallelConfig& config);
std::size_t forward_workspace_bytes(const ExpertParallelConfig& config);
std::size_t backward_workspace_bytes(const ExpertParallelConfig& config);

/// `parameters` of this rank's experts; x, ids (of all experts, -1 or out of range: none), weights and
/// mask of its tokens; output [T, D]. Collective. `saved` (256-byte aligned) may be null when no backward
/// follows. Throws ArgumentError for a field out of range, windows that are too small or a group of another
/// size, GroupError when a rank has ended. Where rows do not fit max_rows see there.
void experts_forward(const ExpertParallelConfig& config, const ExpertsWeights& parameters,
                     const ExpertsInput& input, void* output, Group& group,
                     const ExpertParallelWindows& windows, void* saved, void* workspace, cudaStream_t stream);

/// x and weights: of this rank's tokens; parameters: of this rank's experts, complete. Collective.
void experts_backward(const ExpertParallelConfig& config, const ExpertsWeights& parameters,
                      const ExpertsInput& input, const void* d_output, Group& group,
                      const ExpertParallelWindows& windows, const void* saved,
                      const ExpertsGradients& gradients, void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
