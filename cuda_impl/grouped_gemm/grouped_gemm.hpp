// The grouped products of the layer, one function each. Shapes as in moeref/cuda/experts.hpp; R = max_rows
// rows; matrices given as void are of the shape's data type.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/activation.hpp"
#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/permutation.hpp"
#include "moeref/cuda/weight_format.hpp"

namespace moeref::cuda {

struct GroupedShape {
  Permutation permutation;
  std::int64_t rows;           // room for R
  std::int64_t expected_rows;  // that an even routing gives
  int dim, inter_dim, experts, tile_rows;
  DataType dtype;
  ExpertsPath path;  // not automatic
  int* tickets;      // on the device, 0 before a product and after it; for one product at a time
  int* arrivals;     // [1 + most_tiles], 0 before an up product that gathers
  int chunk = 0;     // whose rows the products of tokens take; weight gradients take all
  WeightFormat format = WeightFormat::none;  // of the weights that the products below are given
};

/// The row tiles of the shape's chunk: an expert's rows are offsets[e * step] to offsets[e * step + 1] - 1.
struct RowTiles {
  const int *offsets, *expert_tile_begin, *tile_expert;
  int step;
};
inline RowTiles row_tiles(const GroupedShape& g) {
  const Permutation& p = g.permutation;
  return {p.offsets + g.chunk, p.expert_tile_begin + g.chunk * (g.experts + 1),
          p.tile_expert + g.chunk * p.most_tiles, p.chunks};
}

struct UpProduct {
  const void* tokens;  // X by token [T, D], or null where `rows` holds it already. A path that streams
                       // weights reads it there, one that gathers brings it to `rows`
  void* rows;          // [R, D]
  const void *weights, *bias;         // [E, D, up_width]; [E, up_width] or null
  void *h, *a;                        // [R, up_width] or null, [R, I]
  bool weighted;                      // A' = act(H) * p, else act(H)
  WeightScales scales = {};           // where the weights are codes
  const float* row_scales = nullptr;  // where the rows are codes, too (quantize_rows.hpp)
};
/// H = X W_gate_up (+ bias); A' = act(H) (* p).
void up_product(const GroupedShape& shape, const UpProduct& product, Activation activation,
                const ActivationParameters& parameters, cudaStream_t stream);

struct StoredProduct {
  const void *rows, *weights, *bias;  // [R, K], weights, [E, width] or null
  void* out;                          // [R, width]
  bool scale_product;                 // multiply the product, not only the bias, by the row's weight
  WeightScales scales = {};           // where the weights are codes
  const float* row_scales = nullptr;  // where the rows are codes, too
};
/// O = A' W_down (+ p bias), or (A' W_down + bias) p. K = I, width = D.
void down_product(const GroupedShape& shape, const StoredProduct& product, cudaStream_t stream);
/// dX rows = dH W_gate_up^T. K = up_width, width = D.
void input_gradient_product(const GroupedShape& shape, const StoredProduct& product, int up_width,
                            cudaStream_t stream);

/// Both products of a few tokens, and the sums of each token's rows, in one launch.
struct WholePass {
  UpProduct up;
  StoredProduct down;  // whose rows are up.a
  void* out;           // [T, D], as unpermute() gives it of down.out
  std::int64_t tokens;
  int slots;
  int* progress;  // [few_rows::progress_count()], 0
};
/// Whether the shape's path has it, and is faster with it, for so many tokens and slots of each.
bool has_whole_pass(const GroupedShape& shape, Activation activation, std::int64_t tokens, int slots);
void whole_pass(const GroupedShape& shape, const WholePass& pass, Activation activation,
                const ActivationParameters& parameters, cudaStream_t stream);

struct DownGradient {
  const void *dy, *weights, *h;  // by row [R, D], [E, I, D], [R, up_width]
  void *dh, *a;                  // [R, up_width], [R, I]
  float* dot_parts;              // [R, ceil(I / dot_columns of the path)]
};
/// dA = dY W_down^T; dH, A' = p act(H), and the parts of acc . act(H).
void down_gradient_product(const GroupedShape& shape, const DownGradient& product, Activation activation,
                           const ActivationParameters& parameters, cudaStream_t stream);

struct WeightGradient {
  const void *left, *right;  // [R, left_width], [R, right_width]
  int left_width, right_width;
  void* out;  // [E, left_width, right_width]
};
/// out_e = left_e^T right_e over the rows of expert e; zeros for an expert without rows.
void weight_gradient_product(const GroupedShape& shape, const WeightGradient& product, cudaStream_t stream);

}  // namespace moeref::cuda
