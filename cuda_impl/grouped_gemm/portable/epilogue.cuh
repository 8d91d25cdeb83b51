// What becomes of a tile's product: the epilogues of the portable products, on fp32 results in shared memory.
#pragma once

#include <type_traits>

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/grouped_gemm/portable/tile.cuh"

namespace moeref::cuda::portable {

/// Rows row .. row + rows - 1 of the result, rows of expert `expert`; column tile m_tile.
struct TilePlace {
  int expert;
  std::int64_t row;
  int rows, m_tile;
};

template <UpLayout Layout>
__device__ __forceinline__ std::int64_t gate_column(int i) {
  return Layout == UpLayout::interleaved ? 2 * std::int64_t{i} : i;
}
template <UpLayout Layout>
__device__ __forceinline__ std::int64_t up_column(int i, int inter_dim) {
  if constexpr (Layout == UpLayout::up_only) return i;
  return Layout == UpLayout::interleaved ? 2 * std::int64_t{i} + 1 : std::int64_t{inter_dim} + i;
}
template <class Act>
constexpr bool is_gated_layout = Act::layout != UpLayout::up_only;

/// H = product + bias, stored where `h` is not null; A' = act(H) * p.
template <class T, class Act>
struct Up {
  static constexpr bool accurate = std::is_same_v<T, float>, gated = is_gated_layout<Act>;
  static constexpr int inner = gated ? 32 : 64;  // inner columns of a tile

  T *h, *a;                 // [R, up_width] or null, [R, I]
  const T* bias;            // [E, up_width] or null
  const float* row_weight;  // [R], or null: all 1
  int inter_dim;
  ActivationParameters parameters;

  __device__ int width() const { return gated ? 2 * inter_dim : inter_dim; }
  __device__ Columns columns(int m_tile) const {
    if constexpr (Act::layout == UpLayout::halves) {
      const int i = m_tile * 32;
      return {i, inter_dim, inter_dim + i, 2 * inter_dim};
    } else {
      return adjacent(m_tile * 64, width());
    }
  }
  __device__ void run(const TilePlace& tile, const float* result) const {
    const bool clamp = Act::clamps(parameters);
    for (int n = threadIdx.x; n < tile.rows * inner; n += kThreads) {
      const int r = n / inner, c = n % inner, i = tile.m_tile * inner + c;
      if (i >= inter_dim) continue;
      const float* product = result + r * kResultStride;
      const std::int64_t row = tile.row + r, gate_at = gate_column<Act::layout>(i),
                         up_at = up_column<Act::layout>(i, inter_dim);
      float gate = 0, up = product[Act::layout == UpLayout::interleaved ? 2 * c + 1 : gated ? 32 + c : c];
      if constexpr (gated) gate = product[Act::layout == UpLayout::interleaved ? 2 * c : c];
      if (bias != nullptr) {
        const T* mine = bias + std::int64_t{tile.expert} * width();
        if constexpr (gated) gate += to_float(mine[gate_at]);
        up += to_float(mine[up_at]);
      }
      if (h != nullptr) {
        T* mine = h + row * width();
        if constexpr (gated) mine[gate_at] = from_float<T>(gate);
        mine[up_at] = from_float<T>(up);
      }
      const float value = clamp ? Act::template forward<true, accurate>(gate, up, parameters)
                                : Act::template forward<false, accurate>(gate, up, parameters);
      a[row * inter_dim + i] = from_float<T>(row_weight != nullptr ? value * row_weight[row] : value);
    }
  }
};

/// out = product * scale + bias * p, with scale the row's weight p or 1.
template <class T>
struct Store {
  T* out;                   // [R, extent]
  const T* bias;            // [E, extent] or null
  const float* row_weight;  // [R], used for the bias and where scale_product
  int extent;
  bool scale_product;

  __device__ Columns columns(int m_tile) const { return adjacent(m_tile * kTile, extent); }
  __device__ void run(const TilePlace& tile, const float* result) const {
    for (int n = threadIdx.x; n < tile.rows * kTile; n += kThreads) {
      const int r = n / kTile, c = n % kTile, m = tile.m_tile * kTile + c;
      if (m >= extent) continue;
      float v = result[r * kResultStride + c];
      if (bias != nullptr || scale_product) {
        const float p = row_weight[tile.row + r];
        if (scale_product) v *= p;
        if (bias != nullptr) v += to_float(bias[std::int64_t{tile.expert} * extent + m]) * p;
      }
      out[(tile.row + r) * extent + m] = from_float<T>(v);
    }
  }
};

/// product = dY W_down^T. dH = p product act'(H), A' = p act(H), and this tile's part of product . act(H).
template <class T, class Act>
struct DownGradientOf {
  static constexpr bool accurate = std::is_same_v<T, float>, gated = is_gated_layout<Act>;

  const T* h;
  T *dh, *a;
  const float* row_weight;
  float* dot_parts;  // [R, ceil(I / 64)]
  int inter_dim;
  ActivationParameters parameters;

  __device__ Columns columns(int m_tile) const { return adjacent(m_tile * kTile, inter_dim); }
  __device__ void run(const TilePlace& tile, const float* result) const {
    const int lane = threadIdx.x % 32, parts = (inter_dim + kTile - 1) / kTile;
    const std::int64_t width = gated ? 2 * std::int64_t{inter_dim} : inter_dim;
    const bool clamp = Act::clamps(parameters);
    for (int r = threadIdx.x / 32; r < tile.rows; r += kThreads / 32) {
      const std::int64_t row = tile.row + r;
      const float p = row_weight[row];
      float dot = 0;
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const int c = lane + 32 * q, i = tile.m_tile * kTile + c;
        if (i >= inter_dim) continue;
        const float d = result[r * kResultStride + c];
        const std::int64_t gate_at = row * width + gate_column<Act::layout>(i),
                           up_at = row * width + up_column<Act::layout>(i, inter_dim);
        const float gate = gated ? to_float(h[gate_at]) : 0.0f, up = to_float(h[up_at]);
        const ActivationGradient g =
            clamp ? Act::template backward<true, accurate>(gate, up, d * p, parameters)
                  : Act::template backward<false, accurate>(gate, up, d * p, parameters);
        dot += d * g.value;
        if constexpr (gated) dh[gate_at] = from_float<T>(g.gate);
        dh[up_at] = from_float<T>(g.up);
        a[row * inter_dim + i] = from_float<T>(g.value * p);
      }
      for (int lanes = 16; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
      if (lane == 0) dot_parts[row * parts + tile.m_tile] = dot;
    }
  }
};

}  // namespace moeref::cuda::portable
