// Products of the gate in bfloat16 or float16: mma.sync m16n8k16 with fp32 accumulation, so that every device
// from sm_80 on runs the same code.
//
// Tile: 128 x 128 with 8 warps and 3 stages (96 KiB), or 64 x (64, 32) with 4 warps and 4 stages where E is
// small; K in blocks of 64, fetched by cp.async. A warp holds 32 x BN / 2. Shared rows are swizzled in
// 16-byte chunks (chunk ^ row mod 8), so that neither cp.async nor ldmatrix has bank conflicts. Floor: x is
// read once from memory, 2 T D bytes (16 us at T = 16384, D = 2048 and 4.3 TB/s). Every row tile reads all of
// W from the L2, which is why the row tile is 128 where W is large. A in planes and whole results are of the
// backward pass alone: they cost the forward pass a tenth.
#include <algorithm>

#include "cuda_impl/gate/product_kernels.hpp"
#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/tile_product/tensor_core_product.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kBlockK = 64;

/// Pairs (plane of A, plane of B), the largest products first. Of three planes each, those that are left out
/// are 2^-24 of the first pair's and smaller.
struct PlanePairs {
  int count;
  unsigned a, b;  // four bits a pair
  __device__ int of_a(int pair) const { return static_cast<int>(a >> 4 * pair & 15); }
  __device__ int of_b(int pair) const { return static_cast<int>(b >> 4 * pair & 15); }
};
PlanePairs plane_pairs(int of_a, int of_b) {
  PlanePairs out{};
  for (int sum = 0; sum < std::max(of_a, of_b); ++sum)
    for (int i = 0; i <= sum; ++i) {
      if (i >= of_a || sum - i >= of_b) continue;
      out.a |= static_cast<unsigned>(i) << 4 * out.count;
      out.b |= static_cast<unsigned>(sum - i) << 4 * out.count++;
    }
  return out;
}

template <class T>
struct Arguments {
  const T *a, *b;
  std::int64_t a_stride, b_stride;  // of the axis that is not contiguous
  std::int64_t a_plane_stride, b_plane_stride;
  PlanePairs pairs;
  std::int64_t m, n, k, k_per_split;
  std::int64_t column_tiles;
  float* partial;
  T* stored;
  bool add;
};

/// Elements [first, first + extent) of an operand by those of K from k0 on, zero beyond `extent` and `k_end`.
template <class Tile, int kThreads, class T>
__device__ void fetch_block(unsigned to, const T* from, std::int64_t stride, std::int64_t first,
                            std::int64_t extent, std::int64_t k0, std::int64_t k_end) {
  Tile::template for_chunks<kThreads>([&](int line, int chunk) {
    const std::int64_t outer = (Tile::along_k ? first : k0) + line,
                       inner = (Tile::along_k ? k0 : first) + chunk * 8;
    const bool valid = Tile::along_k ? outer < extent && inner < k_end : outer < k_end && inner < extent;
    copy_async(to + Tile::offset(line, chunk), valid ? from + outer * stride + inner : from, valid);
  });
}

template <class T, int BM, int BN, bool kAAlongK, bool kBAlongK>
struct Kernel {
  using A = SharedTile<T, BM, kAAlongK>;
  using B = SharedTile<T, BN, kBAlongK>;
  using Product = TensorCoreProduct<T, 32, BN / 2>;
  static constexpr int kThreads = BM * 2, kStages = BM == 128 ? 3 : 4;
  static constexpr int kStageBytes = A::bytes + B::bytes, kSharedBytes = kStages * kStageBytes;
};

template <class T, int BM, int BN, bool kAAlongK, bool kBAlongK>
__global__ __launch_bounds__(BM * 2) void product_kernel(const Arguments<T> p) {
  using K = Kernel<T, BM, BN, kAAlongK, kBAlongK>;
  wait_for_earlier_kernels();
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned base = shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / 2 * 32, warp_n = warp % 2 * (BN / 2);
  const std::int64_t m0 = blockIdx.x / p.column_tiles * BM, n0 = blockIdx.x % p.column_tiles * BN;
  const std::int64_t k_begin = blockIdx.y * p.k_per_split, k_end = min(k_begin + p.k_per_split, p.k);
  const int plane_steps = static_cast<int>((k_end - k_begin + kBlockK - 1) / kBlockK),
            steps = kBAlongK ? plane_steps : plane_steps * p.pairs.count;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const unsigned to = base + step % K::kStages * K::kStageBytes;
      const int pair = kBAlongK ? 0 : step / plane_steps;
      const std::int64_t k0 = k_begin + std::int64_t{step - pair * plane_steps} * kBlockK;
      const T *a = p.a, *b = p.b;
      if (!kBAlongK) a += p.pairs.of_a(pair) * p.a_plane_stride, b += p.pairs.of_b(pair) * p.b_plane_stride;
      fetch_block<typename K::A, K::kThreads>(to, a, p.a_stride, m0, p.m, k0, k_end);
      fetch_block<typename K::B, K::kThreads>(to + K::A::bytes, b, p.b_stride, n0, p.n, k0, k_end);
    }
    commit_copies();  // an empty group too: the count of groups says which have arrived
  };
#pragma unroll
  for (int s = 0; s < K::kStages - 1; ++s) fetch(s);

  typename K::Product product;
  for (int step = 0; step < steps; ++step) {
    wait_copies<K::kStages - 2>();
    __syncthreads();  // the copies of all threads are seen, and the stage fetched next is no longer read
    fetch(step + K::kStages - 1);
    const unsigned a_tile = base + step % K::kStages * K::kStageBytes;
    product.template add<typename K::A, typename K::B>(a_tile, a_tile + K::A::bytes, warp_m, warp_n);
  }
  wait_copies<0>();

  if (kBAlongK || p.partial) {
    float* partial = p.partial + blockIdx.y * p.m * p.n;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::int64_t row = m0 + warp_m + i * 16 + half * 8 + lane / 4;
        if (row >= p.m) continue;
#pragma unroll
        for (int j = 0; j < BN / 16; ++j) {
          const std::int64_t col = n0 + warp_n + j * 8 + lane % 4 * 2, at = row * p.n + col;
          const float first = product.sum[i][j][half * 2], second = product.sum[i][j][half * 2 + 1];
          if (col + 1 < p.n && p.n % 2 == 0) {
            *reinterpret_cast<float2*>(partial + at) = {first, second};
          } else {
            if (col < p.n) partial[at] = first;
            if (col + 1 < p.n) partial[at + 1] = second;
          }
        }
      }
    return;
  }
  // Through shared memory, so that a thread stores 16 bytes and a row is contiguous.
  float* tile = reinterpret_cast<float*>(shared);
  constexpr int kRow = BN + 8;
  static_assert(BM * kRow * 4 <= K::kSharedBytes);
  __syncthreads();
  product.template put<kRow>(tile, warp_m, warp_n);
  __syncthreads();
#pragma unroll 2
  for (int i = threadIdx.x; i < BM * BN / 8; i += K::kThreads) {
    const int row = i / (BN / 8), col = i % (BN / 8) * 8;
    if (m0 + row >= p.m || n0 + col >= p.n) continue;  // n is a multiple of 8
    uint4* out = reinterpret_cast<uint4*>(p.stored + (m0 + row) * p.n + n0 + col);
    const float* sum = tile + row * kRow + col;
    uint4 packed{};
    if (p.add) packed = *out;
    T* elements = reinterpret_cast<T*>(&packed);
#pragma unroll
    for (int j = 0; j < 8; ++j) elements[j] = from_float<T>(sum[j] + (p.add ? to_float(elements[j]) : 0.0f));
    *out = packed;
  }
}

template <class T, int BM, int BN, bool kAAlongK, bool kBAlongK>
void launch(const ProductShape& s, Arguments<T> arguments, cudaStream_t stream) {
  using K = Kernel<T, BM, BN, kAAlongK, kBAlongK>;
  constexpr auto kernel = product_kernel<T, BM, BN, kAAlongK, kBAlongK>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, K::kSharedBytes),
        "cudaFuncSetAttribute");
  const std::int64_t rows = (s.m + BM - 1) / BM;
  arguments.column_tiles = (s.n + BN - 1) / BN;
  const dim3 grid(static_cast<unsigned>(rows * arguments.column_tiles), static_cast<unsigned>(s.splits));
  launch_overlapped<kernel>("tensor_core_product", {grid, K::kThreads, K::kSharedBytes, stream}, arguments);
}

bool aligned(const Operand& o) {
  const std::int64_t stride = o.row_stride == 1 ? o.col_stride : o.row_stride;
  return bytes_of(o.type) == 2 && reinterpret_cast<std::uintptr_t>(o.data) % 16 == 0 && stride % 8 == 0;
}

template <class T>
void launch_any(const ProductShape& s, const Operand& a, const Operand& b, const ProductOutput& out,
                cudaStream_t stream) {
  const bool a_along_k = a.col_stride == 1, b_along_k = b.row_stride == 1;
  const Arguments<T> arguments{static_cast<const T*>(a.data),
                               static_cast<const T*>(b.data),
                               a_along_k ? a.row_stride : a.col_stride,
                               b_along_k ? b.col_stride : b.row_stride,
                               a.plane_stride,
                               b.plane_stride,
                               plane_pairs(a.planes, b.planes),
                               s.m,
                               s.n,
                               s.k,
                               s.k_per_split,
                               0,
                               static_cast<float*>(out.partial),
                               static_cast<T*>(out.stored),
                               out.add};
  if (!b_along_k)
    return a_along_k ? launch<T, 128, 128, true, false>(s, arguments, stream)
                     : launch<T, 128, 128, false, false>(s, arguments, stream);
  if (s.n > 64) return launch<T, 128, 128, true, true>(s, arguments, stream);
  if (s.n > 32) return launch<T, 64, 64, true, true>(s, arguments, stream);
  return launch<T, 64, 32, true, true>(s, arguments, stream);
}

}  // namespace

bool tensor_cores_take(const ProductShape& s, const Operand& a, const Operand& b, DataType via,
                       const ProductOutput& out) {
  const bool a_along_k = a.col_stride == 1, b_along_k = b.row_stride == 1;
  if (!aligned(a) || !aligned(b) || a.type != b.type || a.plane_stride % 8 != 0 || b.plane_stride % 8 != 0)
    return false;
  if (via != a.type && via != DataType::float32) return false;  // operands are multiplied as they are
  if (b_along_k) return a_along_k && a.planes == 1 && out.partial;
  if (s.n % 8 != 0) return false;
  return out.partial ||
         (a_along_k && out.type == a.type && reinterpret_cast<std::uintptr_t>(out.stored) % 16 == 0);
}

void tensor_core_product(const ProductShape& s, const Operand& a, const Operand& b, const ProductOutput& out,
                         cudaStream_t stream) {
  if (s.m == 0 || s.n == 0) return;
  const auto launch = [&](const Operand& of_b, const ProductOutput& to) {
    if (a.type == DataType::float16)
      launch_any<__half>(s, a, of_b, to, stream);
    else
      launch_any<__nv_bfloat16>(s, a, of_b, to, stream);
  };
  if (b.row_stride != 1) return launch(b, out);
  for (int plane = 0; plane < b.planes; ++plane) {
    Operand of_b = b;
    of_b.planes = 1;
    of_b.data = static_cast<const char*>(b.data) + plane * b.plane_stride * 2;
    ProductOutput to = out;
    to.partial = static_cast<float*>(out.partial) + plane * s.splits * s.m * s.n;
    launch(of_b, to);
  }
}

}  // namespace moeref::cuda
