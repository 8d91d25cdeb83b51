// Ids in turn, or the top-k of seeded random scores.
//
// Without noise one thread per slot. With noise one warp per token, lane l draws scores l + 32 j; the
// normals, common to all tokens, stay in registers. Compiled without contraction, since scores decide ids.
// Floor: 8 bytes per slot written; with noise the draws, about 100 integer operations each.
#include <string>

#include "cuda_impl/gate/top_k.cuh"
#include "cuda_impl/memory/typed_element.cuh"
#include "cuda_impl/token_blocks/block_memory.cuh"
#include "cuda_impl/token_blocks/token_blocks.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/fake_balanced_gate.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref::cuda {
namespace {

struct Output {
  int* ids;
  void* weights;
  DataType type;
  float* weights_float;
};

__device__ void store_weight(const Output& out, std::int64_t at, float w) {
  const float stored = round_to(w, out.type);
  if (out.weights) store_element(out.weights, out.type, at, stored);
  if (out.weights_float) out.weights_float[at] = stored;
}

__global__ void in_turn_kernel(std::int64_t count, int available, int skip, float weight, Output out) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    out.ids[i] = static_cast<int>(i % available) + skip;
    store_weight(out, i, weight);
  }
}

struct Streams {
  std::uint64_t weights, bias, scores;  // hashes of their names
};

struct Arguments {
  std::int64_t tokens, tokens_per_block, elements;
  int warps, slots, available, skip;
  float noise, rest, uniform;
  const void* x;
  DataType x_type;
  FakeGateDraws draws;
  Streams streams;
  Output out;
};

/// int(1e6 s) & 0x7fffffff, s the fp32 sum from the left of the first four elements; the low bits of a two's
/// complement integer are its remainder by 2^31.
__device__ std::uint64_t seed_of(const Arguments& p) {
  float sum = 0.0f;
  for (std::int64_t i = 0; i < 4 && i < p.elements; ++i)
    sum = __fadd_rn(sum, load_element<float>(p.x, p.x_type, i));
  if (!isfinite(sum)) return 0;
  const double remainder = fmod(trunc(__dmul_rn(static_cast<double>(sum), 1e6)), 2147483648.0);
  return static_cast<std::uint64_t>(static_cast<long long>(remainder)) & 0x7fffffffu;
}

template <int kItems>
__global__ __launch_bounds__(32 * most_warps(kItems, 4)) void noisy_kernel(const Arguments p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  BlockMemory<float, kItems> memory(shared, p.warps, warp);
  const bool own = p.draws.scores == nullptr;
  const std::uint64_t seed = own ? seed_of(p) : 0;
  const CounterGenerator weights(seed, p.streams.weights), bias(seed, p.streams.bias),
      scores(seed, p.streams.scores);
  float b[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int i = lane + 32 * j;
    b[j] = i >= p.available ? 0.0f : own ? static_cast<float>(bias.normal(i)) : p.draws.bias[i];
    b[j] = __fmul_rn(__fmul_rn(b[j], p.noise), 0.1f);
  }
  const std::int64_t first = blockIdx.x * p.tokens_per_block,
                     last = min(first + p.tokens_per_block, p.tokens);
  for (std::int64_t t = first + warp; t < last; t += p.warps) {
    unsigned keys[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int i = lane + 32 * j;
      const std::int64_t at = t * p.available + i;
      keys[j] = 0;
      if (i >= p.available) continue;
      const float u = own ? static_cast<float>(scores.uniform(at)) : p.draws.scores[at];
      keys[j] = order_key(__fadd_rn(u, b[j]));
    }
    warp_top_k(keys, p.slots, memory.ids);
    for (int slot = lane; slot < p.slots; slot += 32) {
      const std::int64_t at = t * p.slots + slot;
      p.out.ids[at] = memory.ids[slot] + p.skip;
      memory.slots[slot] = own ? static_cast<float>(weights.uniform(at)) : p.draws.weights[at];
    }
    __syncwarp();
    float sum = 0.0f;
    for (int slot = 0; slot < p.slots; ++slot) sum = __fadd_rn(sum, memory.slots[slot]);
    for (int slot = lane; slot < p.slots; slot += 32)
      store_weight(
          p.out, t * p.slots + slot,
          __fadd_rn(__fmul_rn(p.rest, p.uniform), __fmul_rn(p.noise, __fdiv_rn(memory.slots[slot], sum))));
    __syncwarp();
  }
}

void check_config(const FakeGateConfig& c) {
  const auto want = [](bool right, const char* field, const std::string& value, const std::string& wanted) {
    if (!right) throw ArgumentError(std::string(field) + " is " + value + ": want " + wanted);
  };
  want(c.experts >= 1 && c.experts <= kMostExperts, "experts", std::to_string(c.experts), "1 to 1024");
  want(c.dim >= 1, "dim", std::to_string(c.dim), "1 or more");
  want(c.skip >= 0 && c.skip < c.experts, "skip", std::to_string(c.skip),
       "0 or more and less than experts = " + std::to_string(c.experts));
  want(c.noise >= 0.0 && c.noise <= 1.0, "noise", std::to_string(c.noise), "0 to 1");
  want(c.slots >= 1, "slots", std::to_string(c.slots), "1 or more");
  want(c.noise == 0.0 || c.slots <= kMostSlots, "slots", std::to_string(c.slots), "64 at most, with noise");
  want(c.noise == 0.0 || c.slots <= c.experts - c.skip, "slots", std::to_string(c.slots),
       "at most experts - skip = " + std::to_string(c.experts - c.skip) + ", with noise");
  want(c.tokens >= 0 && c.tokens <= (std::int64_t{1} << 40) / c.slots, "tokens", std::to_string(c.tokens),
       "0 or more and tokens * slots up to 2^40");
  check_matrix_type(c.x_type, "x_type");
}

}  // namespace

void fake_balanced_gate(const FakeGateConfig& c, const void* x, const FakeGateDraws& draws, int* ids,
                        void* weights, float* weights_float, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  const bool any = draws.weights || draws.bias || draws.scores;
  if (any && !(draws.weights && draws.bias && draws.scores))
    throw ArgumentError("draws are not complete: want weights, bias and scores, or none of them");
  if (c.tokens == 0) return;
  const Output out{ids, weights, c.x_type, weights_float};
  const int available = c.experts - c.skip;
  const float uniform = static_cast<float>(1.0 / c.slots);
  if (c.noise == 0.0) {
    const std::int64_t count = c.tokens * c.slots;
    const auto blocks = static_cast<unsigned>(count / 256 < 4096 ? count / 256 + 1 : 4096);
    in_turn_kernel<<<blocks, 256, 0, stream>>>(count, available, c.skip, uniform, out);
  } else {
    const TokenBlocks blocks = token_blocks(c.tokens, c.experts, false);
    const Arguments arguments{c.tokens,
                              blocks.tokens_per_block,
                              c.tokens * c.dim,
                              blocks.warps,
                              c.slots,
                              available,
                              c.skip,
                              static_cast<float>(c.noise),
                              static_cast<float>(1.0 - c.noise),
                              uniform,
                              x,
                              c.x_type,
                              draws,
                              {name_hash("fake_balanced_gate/weights"), name_hash("fake_balanced_gate/bias"),
                               name_hash("fake_balanced_gate/scores")},
                              out};
    with_items(blocks.items, false, [&]<class Acc, int kItems>() {
      if constexpr (sizeof(Acc) == 4)
        noisy_kernel<kItems><<<blocks.blocks, blocks.warps * 32, blocks.shared_bytes, stream>>>(arguments);
    });
  }
  check(cudaGetLastError(), "fake_balanced_gate");
}

}  // namespace moeref::cuda
