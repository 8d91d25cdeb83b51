// What the two passes share: argument checks, the layout of the windows, of `saved` and of the workspaces.
#pragma once

#include <optional>

#include "cuda_impl/expert_parallel/dispatch.hpp"
#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "moeref/cuda/expert_parallel.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

void check_config(const ExpertParallelConfig& config);
/// And that group and windows fit the config.
void check_call(const ExpertParallelConfig& config, const Group& group, const ExpertParallelWindows& windows);

DispatchShape dispatch_shape(const ExpertParallelConfig& config);
/// The share of the M rows of a slot that an even routing fills.
double slot_fill(const ExpertParallelConfig& config);
/// That many rows, and some more. The copy engines bring them, and no
/// multiprocessor is taken from other kernels, whether there are as many or not; blocks bring what a
/// routing has beyond.
std::int64_t usual_rows(const ExpertParallelConfig& config);

/// Of the M rows for a rank.
inline TokenChunks sent_chunks(const ExpertParallelConfig& config) {
  return {config.chunks, config.max_tokens, usual_rows(config)};
}
/// Of the rows that were received, which the experts take for their tokens.
inline TokenChunks token_chunks(const ExpertParallelConfig& config) {
  return config.packed() ? one_chunk(config.own()) : sent_chunks(config);
}

/// What a rank received, until its backward pass.
struct KeptRegions : WindowLayout {
  Region counts, ids, weights, x;  // slots: one int; [M, k], [M, k], [M, D]. Packed: slots [2, n], then rows
  explicit KeptRegions(const ExpertParallelConfig& config);
};
/// dY on its way to the experts; Y, or dX and the weights' gradients, on their way back.
struct TransientRegions : WindowLayout {
  Region d_output, rows, d_weights;  // slots [M, D], [M, D], [M, k]
  Region rows_needed;                // one int
  explicit TransientRegions(const ExpertParallelConfig& config);
};

/// Where the tokens went: each one's row among those for each rank, -1 where it was not sent, and where these
/// rows lie.
struct Sent {
  int* place = nullptr;  // [T, n]
  RowPlaces rows{};
  Sent() = default;
  Sent(Arena& arena, const ExpertParallelConfig& config);
};
/// What send_routes needs.
struct RouteWorkspace {
  void* dispatch;
  int *rows_needed, *token_rows_needed;  // [n]
  RouteWorkspace(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelSaved {
  Sent sent;
  void* experts;  // as experts_forward lays it out
  ExpertParallelSaved(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelForwardWorkspace {
  RouteWorkspace routes;
  void* experts;
  Sent sent;  // where nothing is saved
  ExpertParallelForwardWorkspace(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelBackwardWorkspace {
  void* experts;
  float* d_weights;  // [received rows, k]
  ExpertParallelBackwardWorkspace(Arena& arena, const ExpertParallelConfig& config);
};

}  // namespace moeref::cuda
