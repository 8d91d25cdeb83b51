// The 128 x 128 tile of the portable products: fp32 multiply-adds by eight warps of 64 x 32 for float32,
// tensor cores by four warps of 64 x 64 for 16-bit types. K in blocks of 128 bytes, three of them on their
// way or in use (96 KiB). Each element is one sum over K in ascending order (tensor cores: in steps of 16),
// independent of the tile's place.
#pragma once

#include <type_traits>

#include "cuda_impl/grouped_gemm/portable/operand.cuh"
#include "cuda_impl/tile_product/multiply_add_product.cuh"
#include "cuda_impl/tile_product/tensor_core_product.cuh"

namespace moeref::cuda::portable {

constexpr int kStages = 3, kResultStride = kTile + 8;
constexpr int kStageBytes = 2 * kTile * 128, kSharedBytes = kStages * kStageBytes;
static_assert(kTile * kResultStride * 4 <= kSharedBytes);
static_assert(kSharedBytes <= 99 << 10, "what a block may have on compute capability 8.6, 8.9 and 12.0");

/// How the kernels' tiles are multiplied. `multiply`: the product over K = 0 .. k_extent - 1, row-major with
/// kResultStride, in `shared` (shared_bytes): complete for all threads on return. Of `a`, rows from
/// `used_rows` on may be left out. Begins with a barrier.
template <class T>
struct PortableTile {
  using Element = T;
  static constexpr int rows = kTile;
  static constexpr int blocks = 2;  // of a multiprocessor
  static constexpr int shared_bytes = kSharedBytes;

  template <bool AKMajor, bool BKMajor>
  static __device__ __forceinline__ const float* multiply(Operand<T, AKMajor> a, Operand<T, BKMajor> b,
                                                          int k_extent, int used_rows, char* shared) {
    using A = typename Operand<T, AKMajor>::Tile;
    using B = typename Operand<T, BKMajor>::Tile;
    // Rows of the two warps of a column: 64 each; of 16-bit types in turn 16 of the one and 16 of the other,
    // so that a tile of few rows keeps both busy.
    constexpr bool tensor_cores = sizeof(T) == 2;
    constexpr int apart = 2, across = kThreads<T> / 32 / apart, columns = kTile / across;
    const int warp = threadIdx.x / 32, m = warp / across * (tensor_cores ? 16 : 64),
              n = warp % across * columns;
    const int steps = (k_extent + A::depth - 1) / A::depth;
    const auto after = [](int stage) {
      return stage + kStageBytes == kSharedBytes ? 0 : stage + kStageBytes;
    };
    int to = 0, stage = 0;
    const auto fetch = [&](int step) {
      if (step < steps) {
        a.fetch(shared + to);
        b.fetch(shared + to + A::bytes);
      }
      to = after(to);
      commit_copies();  // an empty group too: the count of groups says which have arrived
    };
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) fetch(s);

    using Product = std::conditional_t<tensor_cores, TensorCoreProduct<T, 64, columns, apart>,
                                       MultiplyAddProduct<AKMajor, BKMajor>>;
    Product product;
    for (int step = 0; step < steps; ++step, stage = after(stage)) {
      wait_copies<kStages - 2>();
      __syncthreads();  // all threads' copies are seen, and the stage fetched next is no longer read
      fetch(step + kStages - 1);
      if constexpr (tensor_cores) {
        const std::uint32_t at = shared_address(shared) + stage;
        const auto add = [&]<int kSteps>() { product.template add<A, B, kSteps>(at, at + A::bytes, m, n); };
        if (used_rows > m + 96)
          add.template operator()<4>();
        else if (used_rows > m + 64)
          add.template operator()<3>();
        else if (used_rows > m + 32)
          add.template operator()<2>();
        else if (used_rows > m)
          add.template operator()<1>();
      } else {
        if (m < used_rows) product.template add<A, B>(shared + stage, shared + stage + A::bytes, m, n);
      }
    }
    wait_copies<0>();
    __syncthreads();
    float* result = reinterpret_cast<float*>(shared);
    product.template put<kResultStride>(result, m, n);
    __syncthreads();
    return result;
  }
};

}  // namespace moeref::cuda::portable
