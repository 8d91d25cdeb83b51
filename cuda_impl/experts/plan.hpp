// What the forward and backward passes share: argument checks, the choice of the path, shapes and the layout
// of `saved` and of the workspaces.
#pragma once

#include "grouped_gemm/grouped_gemm.hpp"
#include "grouped_gemm/product_kinds.hpp"
#include "memory/arena.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

void check_config(const ExpertsConfig& config);
void check_aligned(const void* p, const char* name);

/// `path` as selected_path gives it.
PermutationShape permutation_shape(const ExpertsConfig& config, ExpertsPath path);
inline std::int64_t rows_of(const ExpertsConfig& config) { return config.tokens * config.slots; }
GroupedShape grouped_shape(const ExpertsConfig& config, ExpertsPath path, const Permutation& permutation);
inline int dot_parts_of(const ExpertsConfig& config, ExpertsPath path) {
  const int columns = product_kind(path).dot_columns;
  return (config.inter_dim + columns - 1) / columns;
}

/// What is left to be combined: rows [R, D] in the config's dtype, and where each flat slot's row is. Null
/// for backward without tokens.
struct ExpertRows {
  const void* rows = nullptr;
  const int* slot_row = nullptr;
};
/// experts_forward and experts_backward but for their last step; `gradients.x` is not used.
ExpertRows forward_rows(const ExpertsConfig& config, const ExpertsWeights& parameters,
                        const ExpertsInput& input, void* saved, void* workspace, cudaStream_t stream);
ExpertRows backward_rows(const ExpertsConfig& config, const ExpertsWeights& parameters,
                         const ExpertsInput& input, const void* d_output, const void* saved,
                         const ExpertsGradients& gradients, void* workspace, cudaStream_t stream);

// Sizes are those of the most demanding path, so that they depend on the config alone.
struct Saved {
  void* h;
  void* permutation;
  Saved(Arena& arena, const ExpertsConfig& config);
};
struct ForwardWorkspace {
  void *sort, *a, *rows;
  void* permutation;  // used when nothing is saved
  ForwardWorkspace(Arena& arena, const ExpertsConfig& config);
};
struct BackwardWorkspace {
  void *dh, *a, *rows;
  float* dot_parts;
  BackwardWorkspace(Arena& arena, const ExpertsConfig& config);
};

}  // namespace moeref::cuda
