// The auxiliary loss of given scores and ids: statistics of blocks of tokens, then of all; and its gradient.
//
// One warp per token, lane l adds experts l + 32 j; each lane counts a slot of its own unless an earlier slot
// has the id. Floor: T E scores read once (1.2 us at T = 16384, E = 128 in bfloat16 and 4.3 TB/s), or written
// once.
#include <algorithm>
#include <string>

#include "cuda_impl/aux_loss/statistics.hpp"
#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/memory/typed_element.cuh"
#include "cuda_impl/token_blocks/block_memory.cuh"
#include "cuda_impl/token_blocks/token_blocks.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

/// Beyond 128 bytes the compiler no longer takes the loop over tokens apart by `type`.
struct Arguments {
  std::int64_t tokens;
  int experts, slots;
  AuxLossInput in;
  DataType type;
  int warps;
  std::int64_t tokens_per_block;
  int *block_load, *block_tokens;
  float* block_sums;
  // For the instance beyond.
  int* block_first_choices;  // where these are counted
  std::int64_t tokens_per_sequence;
  int blocks_per_sequence;
};
static_assert(sizeof(Arguments) <= 128);

/// `kBeyond`: with first choices or several sequences.
template <int kItems, bool kBeyond>
__global__ __launch_bounds__(32 * most_warps(kItems, 4)) void statistics_kernel(const Arguments p) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int real_tokens;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, experts = p.experts, slots = p.slots;
  BlockMemory<float, kItems> memory(shared, p.warps, warp);
  int* first_choices = nullptr;
  if constexpr (kBeyond)
    if (p.block_first_choices) first_choices = p.block_first_choices + std::int64_t{blockIdx.x} * experts;
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    memory.histogram[e] = 0;
    if (kBeyond && first_choices) first_choices[e] = 0;
  }
  if (threadIdx.x == 0) real_tokens = 0;
  __syncthreads();
  float sums[kItems] = {};
  int real_here = 0;
  std::int64_t first = blockIdx.x * p.tokens_per_block, last = min(first + p.tokens_per_block, p.tokens);
  if constexpr (kBeyond) {
    const TokenRange own = tokens_of_block(p.tokens_per_sequence, p.blocks_per_sequence, p.tokens_per_block);
    first = own.first, last = own.last;
  }
  for (std::int64_t t = first + warp; t < last; t += p.warps) {
    const bool real = !p.in.token_mask || p.in.token_mask[t] != 0;
    real_here += real;
    // The mask multiplies, as in the documented system: padding whose score is NaN is seen in the loss.
#pragma unroll
    for (int j = 0; j < kItems; ++j)
      if (lane + 32 * j < experts)
        sums[j] +=
            load_element<float>(p.in.scores, p.type, t * experts + lane + 32 * j) * (real ? 1.0f : 0.0f);
    if (!real) continue;
    const int* ids = p.in.ids + t * slots;
    for (int slot = lane; slot < slots; slot += 32) {
      const int id = ids[slot];
      bool counts = id >= 0 && id < experts;
      for (int earlier = 0; earlier < slot; ++earlier) counts = counts && ids[earlier] != id;
      if (counts) atomicAdd(&memory.histogram[id], 1);
      if (kBeyond && first_choices && counts && slot == 0) atomicAdd(&first_choices[id], 1);
    }
  }
  if (lane == 0 && real_here > 0) atomicAdd(&real_tokens, real_here);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    p.block_load[std::int64_t{blockIdx.x} * experts + e] = memory.histogram[e];
  if (threadIdx.x == 0) p.block_tokens[blockIdx.x] = real_tokens;
  memory.store_sums(sums, experts, p.warps, p.block_sums + std::int64_t{blockIdx.x} * experts);
}

__global__ void gradient_kernel(std::int64_t count, int experts, std::int64_t tokens_per_sequence,
                                const double* gradient, const std::uint8_t* mask, DataType type, void* out) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t t = i / experts;
    const double d = gradient[t / tokens_per_sequence * experts + i % experts];
    store_element(out, type, i, !mask || mask[t] ? d : 0.0);
  }
}

void check_config(const AuxLossConfig& c) {
  const auto want = [](bool right, const char* field, std::int64_t value, const char* wanted) {
    if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
  };
  want(c.tokens >= 0 && c.tokens < std::int64_t{1} << 36, "tokens", c.tokens, "0 to 2^36");
  want(c.experts >= 1 && c.experts <= kMostExperts, "experts", c.experts, "1 to 1024");
  want(c.slots >= 1 && c.slots <= kMostSlots, "slots", c.slots, "1 to 64");
  check_matrix_type(c.scores_type, "scores_type");
  want(c.sequences >= 1 && c.tokens % c.sequences == 0, "sequences", c.sequences, "a divisor of tokens");
  want(c.sequences == 1 || !c.accumulated, "sequences", c.sequences, "1 with accumulated loads");
}

AuxLossRule rule_of(const AuxLossConfig& c) {
  return aux_loss_rule(c.slots, c.over_slots, c.first_choice, c.sequences, c.accumulated);
}
TokenBlocks blocks_of(const AuxLossConfig& c) {
  return token_blocks(c.tokens, c.experts, false, c.sequences);
}

struct Workspace {
  int *block_load, *block_tokens;
  float* block_sums;
  int* block_first_choices;
  SequenceStatistics sequences;
  Workspace(Arena& arena, const AuxLossConfig& c, int blocks)
      : block_load(arena.take<int>(static_cast<std::size_t>(blocks) * c.experts)),
        block_tokens(arena.take<int>(blocks)),
        block_sums(arena.take<float>(static_cast<std::size_t>(blocks) * c.experts)),
        block_first_choices(
            arena.take<int>(c.first_choice ? static_cast<std::size_t>(blocks) * c.experts : 0)),
        sequences(arena, c.experts, rule_of(c)) {}
};

}  // namespace

std::size_t aux_loss_workspace_bytes(const AuxLossConfig& c) {
  check_config(c);
  Arena arena(nullptr);
  const Workspace work(arena, c, blocks_of(c).blocks);
  return arena.used();
}

void aux_loss_forward(const AuxLossConfig& c, const AuxLossInput& in, const AuxStatistics& statistics,
                      float* loss, double* gradient, void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  const TokenBlocks blocks = blocks_of(c);
  AuxLossRule rule = rule_of(c);
  if (c.accumulated) rule.accumulated = in.accumulated_load;
  if (c.accumulated && !rule.accumulated)
    throw ArgumentError("accumulated_load is null: want [E], which the config counts");
  Arena arena(workspace);
  const Workspace work(arena, c, blocks.blocks);
  if (c.tokens > 0) {
    const Arguments arguments{c.tokens,
                              c.experts,
                              c.slots,
                              in,
                              c.scores_type,
                              blocks.warps,
                              blocks.tokens_per_block,
                              work.block_load,
                              work.block_tokens,
                              work.block_sums,
                              c.first_choice ? work.block_first_choices : nullptr,
                              blocks.tokens_per_sequence,
                              blocks.blocks_per_sequence};
    const bool beyond = c.first_choice || c.sequences > 1;
    with_items(blocks.items, false, [&]<class Acc, int kItems>() {
      if constexpr (sizeof(Acc) == 4) {
        if (beyond)
          statistics_kernel<kItems, true>
              <<<blocks.blocks, blocks.warps * 32, blocks.shared_bytes, stream>>>(arguments);
        else
          statistics_kernel<kItems, false>
              <<<blocks.blocks, blocks.warps * 32, blocks.shared_bytes, stream>>>(arguments);
      }
    });
    check(cudaGetLastError(), "aux_loss_forward");
  }
  finish_statistics(c.experts, rule,
                    {work.block_load, work.block_tokens, work.block_sums, false, blocks.blocks_per_sequence,
                     c.first_choice ? work.block_first_choices : nullptr},
                    {statistics, {}, loss, gradient}, work.sequences, stream);
}

void aux_loss_backward(const AuxLossConfig& c, const double* gradient, const std::uint8_t* token_mask,
                       void* d_scores, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  if (!gradient) throw ArgumentError("gradient is null: want what aux_loss_forward gave");
  const std::int64_t count = c.tokens * c.experts;
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((count + 255) / 256, 4096));
  gradient_kernel<<<blocks, 256, 0, stream>>>(count, c.experts, c.tokens / c.sequences, gradient, token_mask,
                                              c.scores_type, d_scores);
  check(cudaGetLastError(), "aux_loss_backward");
}

}  // namespace moeref::cuda
