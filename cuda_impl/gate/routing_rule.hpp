// The gate's config as its kernels read it, and how tokens are dealt to them.
#pragma once

#include <cstdint>

#include "cuda_impl/memory/held_element.cuh"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

struct RoutingRule {
  ScoreFunction function;
  bool softmax_before_topk;
  bool softmax_of_selected;  // softmax otherwise: logits choose, w is the softmax over the k
  bool normalise;            // norm_topk_prob and k > 1
  bool weigh_corrected;      // the weights are gathered from S + c
  bool corrected;            // q = S + c
  int experts, slots;
  int groups, limited_groups;  // 1, 1 where groups are ignored
  bool group_top2;             // a group's score is the sum of its two largest q, else its largest
  bool discard_to_zero;        // q of other groups becomes 0, else -infinity
  double route_scale;
  Held compute;  // logits
  Held scores;   // S as the auxiliary loss sees it, and the weights before their own type
};

/// Block b works on tokens [b, b + 1) * tokens_per_block, each warp on every warps-th of them. At most 256
/// blocks, however many tokens, so that their partial sums stay few. A function of the config alone:
/// sums have the same order on every device.
struct TokenBlocks {
  int items;  // experts a lane: 32 * items >= E
  int warps;
  int blocks;
  std::int64_t tokens_per_block;
  int shared_bytes;
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
TokenBlocks token_blocks(std::int64_t tokens, int experts, bool fp64);

}  // namespace moeref::cuda
