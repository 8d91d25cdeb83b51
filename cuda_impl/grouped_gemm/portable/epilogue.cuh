// What becomes of a tile's product: the epilogues of the portable products, on fp32 results in shared memory.
// A thread takes eight neighbouring columns of a row at a time.
#pragma once

#include <type_traits>

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/grouped_gemm/portable/tile.cuh"
#include "cuda_impl/memory/eight.cuh"

namespace moeref::cuda::portable {

/// Rows row .. row + rows - 1 of the result, rows of expert `expert`; column tile m_tile.
struct TilePlace {
  int expert;
  std::int64_t row;
  int rows, m_tile;
};

template <class Act>
constexpr bool is_gated_layout = Act::layout != UpLayout::up_only;

__device__ __forceinline__ void read_eight(const float* from, float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 four = reinterpret_cast<const float4*>(from)[i];
    v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
  }
}

/// Eight inner columns of a row of H, [up_width] in the activation's layout, up to `inter_dim`: gate and up.
/// Of const T it is only read.
template <class T, class Act>
struct UpRow {
  T* row;
  int inter_dim;
  bool eights;

  __device__ __forceinline__ void load(int first, float (&gate)[8], float (&up)[8]) const {
    both(first, gate, up, [](const T* at, std::int64_t from, std::int64_t limit, bool eights, float(&v)[8]) {
      load_eight(at, from, limit, eights, v);
    });
  }
  __device__ __forceinline__ void store(int first, float (&gate)[8], float (&up)[8]) const {
    both(first, gate, up, [](T* at, std::int64_t from, std::int64_t limit, bool eights, const float(&v)[8]) {
      store_eight(at, from, limit, eights, v);
    });
  }

 private:
  template <class Move>
  __device__ __forceinline__ void both(int first, float (&gate)[8], float (&up)[8], const Move& move) const {
    const std::int64_t inner = inter_dim;
    if constexpr (Act::layout == UpLayout::up_only) {
      move(row, first, inner, eights, up);
    } else if constexpr (Act::layout == UpLayout::halves) {
      move(row, first, inner, eights, gate);
      move(row, inner + first, 2 * inner, eights, up);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float alternating[8];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          alternating[2 * i] = gate[half * 4 + i], alternating[2 * i + 1] = up[half * 4 + i];
        move(row, 2 * (std::int64_t{first} + half * 4), 2 * inner, eights, alternating);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          gate[half * 4 + i] = alternating[2 * i], up[half * 4 + i] = alternating[2 * i + 1];
      }
    }
  }
};

/// H = product + bias, stored where `h` is not null; A' = act(H) * p.
template <class T, class Act>
struct Up {
  static constexpr bool accurate = std::is_same_v<T, float>, gated = is_gated_layout<Act>;
  static constexpr int inner = gated ? kTile / 2 : kTile;  // inner columns of a tile

  T *h, *a;                 // [R, up_width] or null, [R, I]
  const T* bias;            // [E, up_width] or null
  const float* row_weight;  // [R], or null: all 1
  int inter_dim;
  ActivationParameters parameters;
  bool eights;

  __device__ int width() const { return gated ? 2 * inter_dim : inter_dim; }
  __device__ Columns columns(int m_tile) const {
    if constexpr (Act::layout == UpLayout::halves) {
      const int i = m_tile * inner;
      return {i, inter_dim, inter_dim + i, 2 * inter_dim};
    } else {
      return adjacent(m_tile * kTile, width());
    }
  }
  __device__ __forceinline__ void run(const TilePlace& tile, const float* result) const {
    const bool clamp = Act::clamps(parameters);
    for (int n = threadIdx.x; n < tile.rows * (inner / 8); n += kThreads<T>) {
      const int r = n / (inner / 8), c = n % (inner / 8) * 8, first = tile.m_tile * inner + c;
      if (first >= inter_dim) continue;
      const float* product = result + r * kResultStride;
      const std::int64_t row = tile.row + r;
      float gate[8] = {}, up[8], bias_gate[8] = {}, bias_up[8] = {};
      if constexpr (Act::layout == UpLayout::interleaved) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float alternating[8];
          read_eight(product + 2 * c + half * 8, alternating);
#pragma unroll
          for (int i = 0; i < 4; ++i)
            gate[half * 4 + i] = alternating[2 * i], up[half * 4 + i] = alternating[2 * i + 1];
        }
      } else if constexpr (gated) {
        read_eight(product + c, gate);
        read_eight(product + kTile / 2 + c, up);
      } else {
        read_eight(product + c, up);
      }
      if (bias != nullptr) {
        UpRow<const T, Act>{bias + std::int64_t{tile.expert} * width(), inter_dim, eights}.load(
            first, bias_gate, bias_up);
#pragma unroll
        for (int i = 0; i < 8; ++i) gate[i] += bias_gate[i], up[i] += bias_up[i];
      }
      if (h != nullptr) UpRow<T, Act>{h + row * width(), inter_dim, eights}.store(first, gate, up);
      const float p = row_weight != nullptr ? row_weight[row] : 1.0f;
      float value[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        value[i] = p * (clamp ? Act::template forward<true, accurate>(gate[i], up[i], parameters)
                              : Act::template forward<false, accurate>(gate[i], up[i], parameters));
      store_eight(a + row * inter_dim, first, inter_dim, eights, value);
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
  bool scale_product, eights;

  __device__ Columns columns(int m_tile) const { return adjacent(m_tile * kTile, extent); }
  __device__ __forceinline__ void run(const TilePlace& tile, const float* result) const {
    for (int n = threadIdx.x; n < tile.rows * (kTile / 8); n += kThreads<T>) {
      const int r = n / (kTile / 8), c = n % (kTile / 8) * 8, first = tile.m_tile * kTile + c;
      if (first >= extent) continue;
      float v[8];
      read_eight(result + r * kResultStride + c, v);
      if (bias != nullptr || scale_product) {
        const float p = row_weight[tile.row + r];
        if (scale_product)
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] *= p;
        if (bias != nullptr) {
          float b[8] = {};
          load_eight(bias + std::int64_t{tile.expert} * extent, first, extent, eights, b);
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] += b[i] * p;
        }
      }
      store_eight(out + (tile.row + r) * extent, first, extent, eights, v);
    }
  }
};

/// product = dY W_down^T. dH = p product act'(H), A' = p act(H), and this tile's part of product . act(H).
template <class T, class Act>
struct DownGradientOf {
  static constexpr bool accurate = std::is_same_v<T, float>;

  const T* h;
  T *dh, *a;
  const float* row_weight;
  float* dot_parts;  // [R, ceil(I / kTile)]
  int inter_dim;
  ActivationParameters parameters;
  bool eights;

  __device__ Columns columns(int m_tile) const { return adjacent(m_tile * kTile, inter_dim); }
  __device__ __forceinline__ void run(const TilePlace& tile, const float* result) const {
    constexpr int threads_a_row = kTile / 8;
    const int c = threadIdx.x % threads_a_row * 8, first = tile.m_tile * kTile + c;
    const int parts = (inter_dim + kTile - 1) / kTile;
    const std::int64_t width = is_gated_layout<Act> ? 2 * std::int64_t{inter_dim} : inter_dim;
    const bool clamp = Act::clamps(parameters);
    // All threads of a warp go through the loop: its two rows add up their parts across lanes.
    for (int begin = 0; begin < tile.rows; begin += kThreads<T> / threads_a_row) {
      const int r = begin + threadIdx.x / threads_a_row;
      const std::int64_t row = tile.row + r;
      float dot = 0;
      if (r < tile.rows && first < inter_dim) {
        const float p = row_weight[row];
        float d[8], gate[8] = {}, up[8] = {}, value[8];
        read_eight(result + r * kResultStride + c, d);
        UpRow<const T, Act>{h + row * width, inter_dim, eights}.load(first, gate, up);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const ActivationGradient g =
              clamp ? Act::template backward<true, accurate>(gate[i], up[i], d[i] * p, parameters)
                    : Act::template backward<false, accurate>(gate[i], up[i], d[i] * p, parameters);
          if (first + i < inter_dim) dot += d[i] * g.value;
          gate[i] = g.gate, up[i] = g.up, value[i] = g.value * p;
        }
        UpRow<T, Act>{dh + row * width, inter_dim, eights}.store(first, gate, up);
        store_eight(a + row * inter_dim, first, inter_dim, eights, value);
      }
#pragma unroll
      for (int lanes = threads_a_row / 2; lanes > 0; lanes /= 2)
        dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
      if (c == 0 && r < tile.rows) dot_parts[row * parts + tile.m_tile] = dot;
    }
  }
};

}  // namespace moeref::cuda::portable
