// How tokens are dealt to blocks and experts to lanes in the passes over scores: one warp per token.
#pragma once

#include <cstdint>

namespace moeref::cuda {

/// Block b works on tokens [b, b + 1) * tokens_per_block, each warp on every warps-th of them. At most 256
/// blocks, however many tokens, so that their partial sums stay few. A function of the config alone:
/// sums have the same order on every device.
struct TokenBlocks {
  int items;  // experts per lane: 32 * items >= E
  int warps;
  int blocks;
  std::int64_t tokens_per_block;
  int shared_bytes;
  // With several sequences of equal length no block has tokens of two.
  std::int64_t tokens_per_sequence;
  int blocks_per_sequence;
};

/// Shared memory of a block: for each warp two rows of numbers [32 * items], `slots` numbers and as many ids;
/// then a histogram [E].
constexpr int kMostSlots = 64;
constexpr int kMostExperts = 1024;
constexpr int shared_bytes_of_warp(int items, int size) {
  return 2 * 32 * items * size + kMostSlots * size + kMostSlots * 4;
}
/// As many as fit into 48 KiB beside the histogram, a power of two up to 16.
constexpr int most_warps(int items, int size) {
  int warps = 16;
  while (warps * shared_bytes_of_warp(items, size) + 128 * items > 48 * 1024 - 64) warps /= 2;
  return warps;
}

/// Of the pass that waits for its warps' reductions: two where that costs no spilled registers.
constexpr int blocks_per_multiprocessor(int items, int size) { return items <= 4 && size == 4 ? 2 : 1; }

TokenBlocks token_blocks(std::int64_t tokens, int experts, bool fp64, int sequences = 1);

/// The tokens of a block of one of several sequences.
struct TokenRange {
  std::int64_t first, last;
};
#ifdef __CUDACC__
__device__ inline TokenRange tokens_of_block(std::int64_t tokens_per_sequence, int blocks_per_sequence,
                                             std::int64_t tokens_per_block) {
  const std::int64_t start = blockIdx.x / blocks_per_sequence * tokens_per_sequence,
                     first = start + blockIdx.x % blocks_per_sequence * tokens_per_block;
  return {first, min(first + tokens_per_block, start + tokens_per_sequence)};
}
#endif

/// Calls run<Acc, kItems>() for the number of experts per lane.
template <class Run>
void with_items(int items, bool fp64, Run&& run) {
  if (fp64) return items <= 4 ? run.template operator()<double, 4>() : run.template operator()<double, 32>();
  switch (items) {
    case 1:
      return run.template operator()<float, 1>();
    case 2:
      return run.template operator()<float, 2>();
    case 4:
      return run.template operator()<float, 4>();
    case 8:
      return run.template operator()<float, 8>();
    case 16:
      return run.template operator()<float, 16>();
    default:
      return run.template operator()<float, 32>();
  }
}

}  // namespace moeref::cuda
