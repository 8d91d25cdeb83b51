// The 64 x 64 tile of the portable products: fp32 multiply-adds for float32, mma.sync m16n8k16 for bfloat16.
// Each element is one sum over K in ascending order (mma: in steps of 16), independent of the tile's place.
#pragma once

#include "cuda_impl/grouped_gemm/portable/operand.cuh"
#include "cuda_impl/memory/ptx_sm80.cuh"

namespace moeref::cuda::portable {

constexpr int kResultStride = kTile + 1;  // floats; rows and columns both spread over the banks

template <class T>
struct TileProduct;

/// Thread (x, y) of 16 x 8 holds rows y + 8 i and columns x + 16 j.
template <>
struct TileProduct<float> {
  float sum[8][4] = {};

  template <bool AKMajor, bool BKMajor>
  __device__ void add(const float* a, const float* b) {
    constexpr int a_stride = Operand<float, AKMajor>::stride, b_stride = Operand<float, BKMajor>::stride;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      float left[8], right[4];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        left[i] = AKMajor ? a[(y + 8 * i) * a_stride + k] : a[k * a_stride + y + 8 * i];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        right[j] = BKMajor ? b[(x + 16 * j) * b_stride + k] : b[k * b_stride + x + 16 * j];
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = __fmaf_rn(left[i], right[j], sum[i][j]);
    }
  }
  __device__ void put(float* result) const {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) result[(y + 8 * i) * kResultStride + x + 16 * j] = sum[i][j];
  }
};

/// Four warps of 32 x 32, as 2 x 4 tiles of 16 x 8.
template <>
struct TileProduct<__nv_bfloat16> {
  float sum[2][4][4] = {};

  template <bool AKMajor, bool BKMajor>
  __device__ void add(const __nv_bfloat16* a, const __nv_bfloat16* b) {
    constexpr int a_stride = Operand<__nv_bfloat16, AKMajor>::stride,
                  b_stride = Operand<__nv_bfloat16, BKMajor>::stride;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, in = lane % 8, low = lane / 8 % 2,
              high = lane / 16;
    const int m0 = warp / 2 * 32, n0 = warp % 2 * 32;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      // a[i]: (rows + 8 (i % 2), K + 8 (i / 2)). b[2 j], b[2 j + 1]: columns of tile j, K and K + 8.
      std::uint32_t left[2][4], right[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = m0 + 16 * i;
        load_matrices<!AKMajor>(left[i],
                                shared_address(AKMajor ? a + (m + in + 8 * low) * a_stride + k + 8 * high
                                                       : a + (k + in + 8 * high) * a_stride + m + 8 * low));
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int n = n0 + 16 * j;
        load_matrices<!BKMajor>(right[j],
                                shared_address(BKMajor ? b + (n + in + 8 * high) * b_stride + k + 8 * low
                                                       : b + (k + in + 8 * low) * b_stride + n + 8 * high));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_add(sum[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
  }
  __device__ void put(float* result) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int q = 0; q < 4; ++q)
          result[(row + 16 * i + q / 2 * 8) * kResultStride + column + 8 * j + q % 2] = sum[i][j][q];
  }
};

template <class T>
constexpr int kSharedBytes = [] {
  constexpr int k_major = Operand<T, true>::elements, mn_major = Operand<T, false>::elements;
  constexpr int operands = 2 * (k_major > mn_major ? k_major : mn_major) * static_cast<int>(sizeof(T));
  constexpr int result = kTile * kResultStride * 4;
  return operands > result ? operands : result;
}();

/// The tile's product over K = 0 .. k_extent - 1, row-major with kResultStride, in `shared` (kSharedBytes,
/// aligned to 16 bytes): complete for all threads on return. Begins with a barrier before it writes there.
template <class T, bool AKMajor, bool BKMajor>
__device__ const float* multiply(const Operand<T, AKMajor>& a, const Operand<T, BKMajor>& b, int k_extent,
                                 char* shared) {
  T* left = reinterpret_cast<T*>(shared);
  T* right = left + Operand<T, AKMajor>::elements;
  TileProduct<T> product;
  Eight<T> next_left[2], next_right[2];
  a.load(0, next_left);
  b.load(0, next_right);
  for (int k = 0; k < k_extent; k += kDepth) {
    __syncthreads();
    a.put(left, next_left);
    b.put(right, next_right);
    __syncthreads();
    if (k + kDepth < k_extent) {
      a.load(k + kDepth, next_left);
      b.load(k + kDepth, next_right);
    }
    product.template add<AKMajor, BKMajor>(left, right);
  }
  __syncthreads();
  float* result = reinterpret_cast<float*>(shared);
  product.put(result);
  __syncthreads();
  return result;
}

}  // namespace moeref::cuda::portable
