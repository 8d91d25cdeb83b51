// What the two passes share: argument checks, the layout of the windows, of `saved` and of the workspaces.
#pragma once

#include <optional>

#include "cuda_impl/expert_parallel/dispatch.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "moeref/cuda/expert_parallel.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

void check_config(const ExpertParallelConfig& config);
/// And that group and windows fit the config.
void check_call(const ExpertParallelConfig& config, const Group& group, const ExpertParallelWindows& windows);

DispatchShape dispatch_shape(const ExpertParallelConfig& config);
inline TokenChunks token_chunks(const ExpertParallelConfig& config) {
  return {config.chunks, config.max_tokens};
}
/// Several chunks travel beside the kernels of others, which need the multiprocessors; what nothing else
/// waits beside goes fastest by direct stores.
inline Outbox outbox_of_rows(const ExpertParallelConfig& config) {
  return config.chunks > 1 ? Outbox::staged : Outbox::direct;
}

/// Whether an even routing fills most rows of the slots. If it does, the copy engines bring whole slots, and
/// no multiprocessor is taken from other kernels; else blocks bring the rows that there are.
bool fills_slots(const ExpertParallelConfig& config);

/// What a rank received, until its backward pass.
struct KeptRegions : WindowLayout {
  Region counts, ids, weights, x;  // slots: one int; [M, k], [M, k], [M, D]
  explicit KeptRegions(const ExpertParallelConfig& config);
};
/// dY on its way to the experts; Y, or dX and the weights' gradients, on their way back.
struct TransientRegions : WindowLayout {
  Region d_output, rows, d_weights;  // slots [M, D], [M, D], [M, k]
  Region rows_needed;                // one int
  explicit TransientRegions(const ExpertParallelConfig& config);
};

/// Where the tokens went: each one's slot at each rank, -1 where it was not sent, and how many each rank got.
struct Sent {
  int *place = nullptr, *counts = nullptr;  // [T, n], [n]
  Sent() = default;
  Sent(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelSaved {
  Sent sent;
  void* experts;  // as experts_forward lays it out
  ExpertParallelSaved(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelForwardWorkspace {
  void *dispatch, *experts;
  Sent sent;  // where nothing is saved
  ExpertParallelForwardWorkspace(Arena& arena, const ExpertParallelConfig& config);
};
struct ExpertParallelBackwardWorkspace {
  void* experts;
  float* d_weights;  // [n M, k]
  ExpertParallelBackwardWorkspace(Arena& arena, const ExpertParallelConfig& config);
};

}  // namespace moeref::cuda
