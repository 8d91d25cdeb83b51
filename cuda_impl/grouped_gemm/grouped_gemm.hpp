// The grouped products of the layer, one function each. Shapes as in moeref/cuda/experts.hpp; R = tokens *
// slots rows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "moeref/cuda/activation.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

/// Row tiles of every token product: the one table of configurations. `kind` is picked by rows per expert.
struct TileConfig {
  const char* name;
  int tile_rows;  // most rows of a row tile, for both blocks of a cluster
};
inline constexpr TileConfig kTileConfigs[] = {{"256x160, clusters of 2", 320}};

struct GroupedShape {
  Permutation permutation;
  std::int64_t rows;  // capacity R
  int dim, inter_dim, experts, tile_rows;
};

struct UpProduct {
  const __nv_bfloat16 *x, *weights, *bias;  // [T, D], [E, D, up_width], [E, up_width] or null
  __nv_bfloat16 *h, *a;                     // [R, up_width] or null, [R, I]
  bool weighted;                            // A' = act(H) * p, else act(H)
};
/// H = X[row_token] W_gate_up (+ bias); A' = act(H) (* p).
void up_product(const GroupedShape& shape, const UpProduct& product, Activation activation,
                const ActivationParameters& parameters, cudaStream_t stream);

struct StoredProduct {
  const __nv_bfloat16 *rows, *weights, *bias;  // [R, K], weights, [E, width] or null
  __nv_bfloat16* out;                          // [R, width]
  bool scale_product;                          // multiply the product, not only the bias, by the row's weight
};
/// O = A' W_down (+ p bias), or (A' W_down + bias) p. K = I, width = D.
void down_product(const GroupedShape& shape, const StoredProduct& product, cudaStream_t stream);
/// dX rows = dH W_gate_up^T. K = up_width, width = D.
void input_gradient_product(const GroupedShape& shape, const StoredProduct& product, int up_width,
                            cudaStream_t stream);

struct DownGradient {
  const __nv_bfloat16 *dy, *weights, *h;  // [T, D], [E, I, D], [R, up_width]
  __nv_bfloat16 *dh, *a;                  // [R, up_width], [R, I]
  float* dot_parts;                       // [R, ceil(I / 128)]
};
/// dA = dY[row_token] W_down^T; dH, A' = p act(H), and the parts of acc . act(H).
void down_gradient_product(const GroupedShape& shape, const DownGradient& product, Activation activation,
                           const ActivationParameters& parameters, cudaStream_t stream);

/// out [E, n_width, m_width] when transposed, else [E, m_width, n_width]: sum over an expert's rows of rows x
/// tokens[row_token].
void weight_gradient_product(const GroupedShape& shape, const __nv_bfloat16* rows, int m_width,
                             const __nv_bfloat16* tokens, int n_width, bool transposed, __nv_bfloat16* out,
                             cudaStream_t stream);

}  // namespace moeref::cuda
