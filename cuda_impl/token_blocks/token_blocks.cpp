#include "cuda_impl/token_blocks/token_blocks.hpp"

#include <algorithm>

namespace moeref::cuda {

TokenBlocks token_blocks(std::int64_t tokens, int experts, bool fp64, int sequences) {
  TokenBlocks b{};
  b.items = 1;
  while (32 * b.items < experts) b.items *= 2;
  if (fp64) b.items = b.items <= 4 ? 4 : 32;  // the two that are built
  const int size = fp64 ? 8 : 4;
  b.warps = most_warps(b.items, size);
  // As many warps as an H200 holds at once.
  const int at_once = blocks_per_multiprocessor(b.items, size);
  const std::int64_t wanted = std::max(1, std::min(256, 2048 * at_once / b.warps) / sequences);
  b.tokens_per_sequence = tokens / sequences;
  const std::int64_t least =
      std::max<std::int64_t>(4 / at_once * b.warps, (b.tokens_per_sequence + wanted - 1) / wanted);
  b.tokens_per_block = (least + b.warps - 1) / b.warps * b.warps;
  b.blocks_per_sequence =
      static_cast<int>((b.tokens_per_sequence + b.tokens_per_block - 1) / b.tokens_per_block);
  b.blocks = b.blocks_per_sequence * sequences;
  b.shared_bytes = b.warps * shared_bytes_of_warp(b.items, size) + 4 * experts;
  return b;
}

}  // namespace moeref::cuda
