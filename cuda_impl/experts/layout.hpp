// What the forward and backward passes share: argument checks, the choice of the path, shapes and the layout
// of `saved` and of the workspaces.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "cuda_impl/permutation/input_slots.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

void check_config(const ExpertsConfig& config);
void check_aligned(const void* p, const char* name);

/// All tokens at once.
inline TokenChunks one_chunk(const ExpertsConfig& config) { return {1, config.tokens}; }

/// `path` as selected_path gives it.
PermutationShape permutation_shape(const ExpertsConfig& config, ExpertsPath path, const TokenChunks& chunks);
inline std::int64_t slots_of(const ExpertsConfig& config) { return config.tokens * config.slots; }
/// There is room for.
inline std::int64_t rows_of(const ExpertsConfig& config) {
  return config.max_rows > 0 ? config.max_rows : slots_of(config);
}
/// The slots of experts that return their input; `rows` [T, D] is x, or the cotangent of the output.
inline InputSlots input_slots(const ExpertsConfig& c, const ExpertsInput& in, const void* rows) {
  return {rows, in.ids, in.weights, in.token_mask, c.slots, c.experts, c.identity_experts};
}
/// For the experts of one device, whose rows are all of its slots.
void check_no_limit(const ExpertsConfig& config);
/// `tickets`: of the workspace, after clear_tickets().
GroupedShape grouped_shape(const ExpertsConfig& config, ExpertsPath path, const Permutation& permutation,
                           int* tickets, int chunk = 0);
/// Before the first product of a pass; the products leave it so.
void clear_tickets(int* tickets, cudaStream_t stream);
inline bool quantises(const ExpertsConfig& c) { return c.activation_format != ActivationFormat::none; }
/// Whether products of this path read the config's codes.
bool reads_codes(const ExpertsConfig& config, ExpertsPath path);
/// Whether the up product brings X to its rows.
bool gathers(const ExpertsConfig& config, ExpertsPath path);
/// The same shape for an up product that gathers. `arrivals`: of the workspace, 0 for every chunk.
GroupedShape gathering(GroupedShape shape, int* arrivals);
std::size_t arrivals_bytes(const PermutationShape& shape);
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
// Sizes are those of the most demanding path, so that they depend on the config alone.
struct Saved {
  void* h;
  void* permutation;
  void* o;  // [R, D], the rows before their weights, where backward cannot find their products with dY again
  Saved(Arena& arena, const ExpertsConfig& config, const TokenChunks& chunks);
};
/// The weights as numbers where the caller's are codes that the pass's products cannot read. They have their
/// memory wherever products of some device cannot.
struct Numbers {
  void *gate_and_up = nullptr, *down = nullptr;  // null where the caller's weights are multiplied as they are
  DataType type;
  Numbers(Arena& arena, const ExpertsConfig& config, DataType type, bool wanted);
  void make(const ExpertsConfig& config, const ExpertsWeights& weights, cudaStream_t stream) const;
  /// What the products take, and its format.
  ExpertsWeights instead_of(const ExpertsWeights& weights) const;
  WeightFormat format(const ExpertsConfig& config) const {
    return gate_and_up ? WeightFormat::none : config.weight_format;
  }
};
struct ForwardWorkspace {
  void *sort, *a, *rows;
  void* permutation;  // used when nothing is saved
  int* tickets;       // of the products, in the workspace, which no other pass uses at the same time
  int* arrivals;      // [chunks, 1 + most_tiles]
  int* progress;      // [few_rows::progress_count()]
  Numbers numbers;
  float *operand, *sums;  // of products of quantised rows: [R, D or I], or codes and scales
                          // (quantize_rows.hpp); [R, up_width or D]
  ForwardWorkspace(Arena& arena, const ExpertsConfig& config, const TokenChunks& chunks);
};
/// Where the rows of X go in a backward pass: with those of dY, which are no longer needed by then, or to
/// memory of their own, so that steps may change places.
enum class RowsOfX { with_dy, apart };
struct BackwardWorkspace {
  void *dh, *a, *rows, *x_rows;
  float* dot_parts;
  int* tickets;
  Numbers numbers;
  BackwardWorkspace(Arena& arena, const ExpertsConfig& config, RowsOfX x);
};

}  // namespace moeref::cuda
