// Products of the gate without tensor cores: fp32 or fp64 sums of operands of any type and layout.
//
// Tile: 128 x 64, K in blocks of 16, 256 threads of 8 x 4 sums each; the next block is fetched to registers
// while this one is multiplied. Floor: 2 M N K flops at the fp32 rate (0.13 ms at T = 16384, D = 2048, E =
// 128 on an H200), which a tile read from shared memory reaches about half of.
#include <algorithm>

#include "cuda_impl/gate/product_kernels.hpp"
#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kBM = 128, kBN = 64, kBK = 16, kThreads = 256;
constexpr int kBlocksWanted = 264;  // two a multiprocessor of an H200

struct Arguments {
  Operand a, b;
  std::int64_t m, n, k, k_per_split, column_tiles;
  DataType via;
  ProductOutput out;
};

/// Index of the i-th element that a thread fetches of a kBK x kExtent block, so that neighbours in the warp
/// are neighbours in memory.
template <int kExtent>
__device__ void fetch_index(bool along_k, int i, int& k, int& at) {
  const int c = static_cast<int>(threadIdx.x) + i * kThreads;
  k = along_k ? c % kBK : c / kExtent;
  at = along_k ? c / kBK : c % kExtent;
}

template <class Acc>
__device__ Acc load_operand(const Operand& o, std::int64_t i, DataType via) {
  Acc sum = 0;
  for (int plane = 0; plane < o.planes; ++plane)
    sum += load_element<Acc>(o.data, o.type, plane * o.plane_stride + i);
  return round_to(sum, via);
}

template <class Acc>
__global__ __launch_bounds__(kThreads) void product_kernel(const Arguments p) {
  // Four elements more a row: the transposing stores of a warp spread over the banks, and rows stay aligned.
  __shared__ __align__(16) Acc a_tile[kBK][kBM + 4];
  __shared__ __align__(16) Acc b_tile[kBK][kBN + 4];
  constexpr int kA = kBM * kBK / kThreads, kB = kBN * kBK / kThreads;
  const std::int64_t m0 = blockIdx.x / p.column_tiles * kBM, n0 = blockIdx.x % p.column_tiles * kBN;
  const std::int64_t k_begin = blockIdx.y * p.k_per_split, k_end = min(k_begin + p.k_per_split, p.k);
  const bool a_along_k = p.a.col_stride == 1, b_along_k = p.b.row_stride == 1;
  const int row = threadIdx.x / 16 * 8, col = threadIdx.x % 16 * 4;

  Acc a_next[kA], b_next[kB];
  const auto fetch = [&](std::int64_t k0) {
    int k, at;
#pragma unroll
    for (int i = 0; i < kA; ++i) {
      fetch_index<kBM>(a_along_k, i, k, at);
      const bool valid = k0 + k < k_end && m0 + at < p.m;
      a_next[i] = valid
                      ? load_operand<Acc>(p.a, (m0 + at) * p.a.row_stride + (k0 + k) * p.a.col_stride, p.via)
                      : Acc(0);
    }
#pragma unroll
    for (int i = 0; i < kB; ++i) {
      fetch_index<kBN>(b_along_k, i, k, at);
      const bool valid = k0 + k < k_end && n0 + at < p.n;
      b_next[i] = valid
                      ? load_operand<Acc>(p.b, (k0 + k) * p.b.row_stride + (n0 + at) * p.b.col_stride, p.via)
                      : Acc(0);
    }
  };

  Acc c[8][4] = {};
  if (k_begin < k_end) fetch(k_begin);
  for (std::int64_t k0 = k_begin; k0 < k_end; k0 += kBK) {
    int k, at;
#pragma unroll
    for (int i = 0; i < kA; ++i) {
      fetch_index<kBM>(a_along_k, i, k, at);
      a_tile[k][at] = a_next[i];
    }
#pragma unroll
    for (int i = 0; i < kB; ++i) {
      fetch_index<kBN>(b_along_k, i, k, at);
      b_tile[k][at] = b_next[i];
    }
    __syncthreads();
    if (k0 + kBK < k_end) fetch(k0 + kBK);
#pragma unroll
    for (int kk = 0; kk < kBK; ++kk) {
      Acc a[8], b[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = a_tile[kk][row + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = b_tile[kk][col + j];
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) c[i][j] = fma(a[i], b[j], c[i][j]);
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (m0 + row + i >= p.m || n0 + col + j >= p.n) continue;
      const std::int64_t to = (m0 + row + i) * p.n + n0 + col + j;
      if (p.out.partial) {
        static_cast<Acc*>(p.out.partial)[blockIdx.y * p.m * p.n + to] = c[i][j];
      } else if (p.out.add) {
        store_element(p.out.stored, p.out.type, to,
                      load_element<Acc>(p.out.stored, p.out.type, to) + c[i][j]);
      } else {
        store_element(p.out.stored, p.out.type, to, round_to(c[i][j], p.via));
      }
    }
}

template <class T>
__global__ void split(const float* values, std::int64_t count, int count_of_planes, T* planes) {
  wait_for_earlier_kernels();
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= count) return;
  float left = values[i];
  for (int plane = 0; plane < count_of_planes; ++plane) {
    const T rounded = from_float<T>(left);
    planes[plane * count + i] = rounded;
    const float rest = left - to_float(rounded);
    left = isfinite(rest) ? rest : 0.0f;  // of what is not finite the first plane says all
  }
}

template <class Acc>
__global__ void sum_parts_kernel(const Acc* parts, int count_of_parts, std::int64_t count, DataType via,
                                 DataType type, void* out) {
  wait_for_earlier_kernels();
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= count) return;
  Acc sum = 0;
  for (int part = 0; part < count_of_parts; ++part) sum += parts[part * count + i];
  store_element(out, type, i, round_to(sum, via));
}

}  // namespace

ProductShape whole_product(std::int64_t m, std::int64_t n, std::int64_t k) {
  return {m, n, k, (k + 63) / 64 * 64, 1};
}

ProductShape split_product(std::int64_t m, std::int64_t n, std::int64_t k) {
  // The tiles that tensor_core_product takes for such an n.
  const std::int64_t rows = n > 64 ? 128 : 64, cols = n > 64 ? 128 : n > 32 ? 64 : 32;
  const std::int64_t tiles = std::max<std::int64_t>(1, (m + rows - 1) / rows * ((n + cols - 1) / cols));
  // A range of fewer than 256 costs more in partial sums than it wins.
  const std::int64_t most = std::max<std::int64_t>(1, std::min<std::int64_t>(16, k / 256));
  // Of large tiles, one block per multiprocessor is as good as two: no split from 120 on.
  const std::int64_t wanted =
      rows == 128 && tiles >= 120 ? 1 : std::clamp<std::int64_t>(kBlocksWanted / tiles, 1, most);
  ProductShape s = whole_product(m, n, k);
  s.k_per_split = std::max<std::int64_t>(64, ((k + wanted - 1) / wanted + 63) / 64 * 64);
  s.splits = static_cast<int>(std::max<std::int64_t>(1, (k + s.k_per_split - 1) / s.k_per_split));
  return s;
}

void fma_product(const ProductShape& s, const Operand& a, const Operand& b, DataType via,
                 const ProductOutput& out, cudaStream_t stream) {
  const std::int64_t rows = (s.m + kBM - 1) / kBM, cols = (s.n + kBN - 1) / kBN;
  const dim3 grid(static_cast<unsigned>(rows * cols), static_cast<unsigned>(s.splits));
  const Arguments arguments{a, b, s.m, s.n, s.k, s.k_per_split, cols, via, out};
  with_accumulator(via, [&]<class Acc>() { product_kernel<Acc><<<grid, kThreads, 0, stream>>>(arguments); });
  check(cudaGetLastError(), "fma_product");
}

int product(const ProductShape& s, const Operand& a, const Operand& b, DataType via, const ProductOutput& out,
            cudaStream_t stream) {
  if (s.m == 0 || s.n == 0) return s.splits;
  if (tensor_cores_take(s, a, b, via, out)) {
    tensor_core_product(s, a, b, out, stream);
    return s.splits * (b.row_stride == 1 ? b.planes : 1);
  }
  fma_product(s, a, b, via, out, stream);
  return s.splits;
}

void split_in_planes(const float* values, std::int64_t count, DataType type, int count_of_planes,
                     void* planes, cudaStream_t stream) {
  if (count == 0) return;
  const LaunchShape shape{static_cast<unsigned>((count + 255) / 256), 256, 0, stream};
  if (type == DataType::float16)
    launch_overlapped<split<__half>>("split_in_planes", shape, values, count, count_of_planes,
                                     static_cast<__half*>(planes));
  else
    launch_overlapped<split<__nv_bfloat16>>("split_in_planes", shape, values, count, count_of_planes,
                                            static_cast<__nv_bfloat16*>(planes));
}

void sum_parts(const void* parts, int count_of_parts, std::int64_t count, DataType via, DataType type,
               void* out, cudaStream_t stream) {
  if (count == 0) return;
  const LaunchShape shape{static_cast<unsigned>((count + 255) / 256), 256, 0, stream};
  with_accumulator(via, [&]<class Acc>() {
    launch_overlapped<sum_parts_kernel<Acc>>("sum_parts", shape, static_cast<const Acc*>(parts),
                                             count_of_parts, count, via, type, out);
  });
}

}  // namespace moeref::cuda
