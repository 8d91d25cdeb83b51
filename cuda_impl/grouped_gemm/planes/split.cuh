// Numbers of fp32 as sums of three bfloat16, from tiles in shared memory to where wgmma reads its operands.
//
// x = h + m + l exactly: h = bf16(x) leaves 15 bits and a sign, m = bf16(x - h) leaves 6, l has them. (Below
// 2^-110 l loses bits; from 3.39e38 on h is infinite, and so m is NaN.)
#pragma once

#include "cuda_impl/grouped_gemm/portable/operand.cuh"
#include "cuda_impl/grouped_gemm/sm90/ptx.cuh"

namespace moeref::cuda::planes {

constexpr int kPlanes = 3;
constexpr int kDepth = 32, kSteps = kDepth / 16;           // of K in a block; of 16 in it
constexpr int kPlaneBytes = portable::kTile * kDepth * 2;  // of a block of the right operand

/// The planes of two numbers, the first in the low half.
__device__ __forceinline__ void split(float x, float y, std::uint32_t (&plane)[kPlanes]) {
#pragma unroll
  for (int p = 0; p < kPlanes - 1; ++p) {
    plane[p] = sm90::pack_bf16(x, y);
    x -= __uint_as_float(plane[p] << 16);
    y -= __uint_as_float(plane[p] & 0xffff0000u);
  }
  plane[kPlanes - 1] = sm90::pack_bf16(x, y);
}

/// Row of a warp's 16 that lanes 4 g to 4 g + 3 hold (8 + that of its second half): so that their loads of
/// pairs meet no bank twice. The accumulator's rows follow.
__device__ __forceinline__ int row_of_group(int g) { return (g & 3) << 1 | g >> 2; }

/// A block of the left operand as wgmma takes it from registers: [plane][step of 16][rows, K].
using Fragments = std::uint32_t[kPlanes][kSteps][4];

/// This warp's 16 rows from `first` on.
template <class Tile>
__device__ __forceinline__ void read_left(const char* tile, int first, Fragments& to) {
  const int lane = threadIdx.x % 32, row = first + row_of_group(lane / 4), k = lane % 4 * 2;
  const auto number = [&](int line, int at) {
    return *reinterpret_cast<const float*>(tile + Tile::offset(line, at / 4) + at % 4 * 4);
  };
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + i % 2 * 8, at = step * 16 + i / 2 * 8 + k;
      float2 pair;
      if constexpr (Tile::along_k)
        pair = *reinterpret_cast<const float2*>(tile + Tile::offset(r, at / 4) + at % 4 * 4);
      else
        pair = {number(at, r), number(at + 1, r)};
      std::uint32_t plane[kPlanes];
      split(pair.x, pair.y, plane);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) to[p][step][i] = plane[p];
    }
}

/// Where a block of the right operand lies as planes in shared memory, and how wgmma is told so. Along K:
/// lines of 64 bytes, swizzled in chunks of 16 by bits 1 and 2 of the line. Else two halves of 64 columns, 32
/// lines of 128 bytes each, swizzled by the line.
template <class Tile>
struct RightPlanes {
  /// Eight numbers of `line` from 8 `eighth` on, to the same place of each plane.
  static __device__ __forceinline__ void put(const char* tile, int line, int eighth, char* planes) {
    std::uint32_t word[4][kPlanes];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 v = *reinterpret_cast<const float4*>(tile + Tile::offset(line, eighth * 2 + i));
      split(v.x, v.y, word[2 * i]);
      split(v.z, v.w, word[2 * i + 1]);
    }
    const int at = Tile::along_k ? line * 64 + (eighth ^ (line >> 1 & 3)) * 16
                                 : eighth / 8 * (kDepth * 128) + line * 128 + (eighth % 8 ^ (line & 7)) * 16;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
      *reinterpret_cast<uint4*>(planes + p * kPlaneBytes + at) = {word[0][p], word[1][p], word[2][p],
                                                                  word[3][p]};
  }

  /// This thread's sixteenth part of a line, or of two halves of one.
  static __device__ __forceinline__ void put_part(const char* tile, char* planes) {
    const int t = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      Tile::along_k ? put(tile, t / 2, t % 2 * 2 + i, planes) : put(tile, t / 8, t % 8 + i * 8, planes);
  }

  /// Of step `step` of 16 of a plane at shared address `plane`.
  static __device__ __forceinline__ std::uint64_t descriptor(std::uint32_t plane, int step) {
    if constexpr (Tile::along_k)
      return std::uint64_t{2} << 62 | std::uint64_t{512 >> 4} << 32 |
             ((plane + static_cast<std::uint32_t>(step) * 32) & 0x3ffff) >> 4;
    else
      return sm90::descriptor(plane + static_cast<std::uint32_t>(step) * 16 * 128, kDepth * 128);
  }
};

}  // namespace moeref::cuda::planes
