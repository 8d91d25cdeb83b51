// One thread per token. Floor: the latency of one launch; 16 bytes a slot pass through L2.
#include "cuda_impl/gate/kept_slots.hpp"

#include "cuda_impl/gate/score.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/memory/typed_element.cuh"

namespace moeref::cuda {
namespace {

constexpr unsigned kTokensPerBlock = 128;

template <class Acc>
struct TokenSlots {
  const KeptSlots& k;
  std::int64_t first;
  __device__ bool kept(int j) const {
    const int id = k.dispatched[first + j];
    return id >= 0 && id < k.experts;
  }
  __device__ Acc value(int j) const { return static_cast<const Acc*>(k.values)[first + j]; }
  __device__ Acc expert_scale(int j) const {  // of a slot that is kept
    return k.expert_scale ? load_element<Acc>(k.expert_scale, k.parameter_type, k.dispatched[first + j])
                          : Acc(1);
  }
  __device__ Acc kept_sum() const {
    Acc sum = 0;
    for (int j = 0; j < k.slots; ++j)
      if (kept(j)) sum += value(j);
    return sum;
  }
};

template <class Acc>
__global__ void weigh(const KeptSlots k, const KeptWeights out) {
  wait_for_earlier_kernels();
  const std::int64_t t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= k.tokens) return;
  const TokenSlots<Acc> token{k, t * k.slots};
  const Acc sum = k.values ? denominator<true>(k, token.kept_sum()) : Acc(1);
  for (int j = 0; j < k.slots; ++j) {
    const bool kept = token.kept(j);
    if (kept && !k.values) continue;
    Acc w = 0;
    if (kept) {
      w = token.value(j) / sum * static_cast<Acc>(k.route_scale) * token.expert_scale(j);
      w = round_to(round_to(w, out.scores), out.weights_type);
    }
    if (out.weights) store_element(out.weights, out.weights_type, token.first + j, w);
    if (out.weights_float) out.weights_float[token.first + j] = static_cast<float>(w);
  }
}

/// Of values that are divided. Through the sum all of them get the same.
template <class Acc>
__device__ void divided_backward(const TokenSlots<Acc>& token, const void* d_weights, DataType type,
                                 const KeptGradients& out) {
  const KeptSlots& k = token.k;
  const Acc sum = token.kept_sum(), total = denominator<true>(k, sum),
            scale = static_cast<Acc>(k.route_scale);
  const auto d_weight = [&](int j) { return load_element<Acc>(d_weights, type, token.first + j); };
  const auto d_divided = [&](int j) { return d_weight(j) * token.expert_scale(j) * scale; };
  Acc inner = 0;
  const bool through_sum = !k.norm_at_most || !(sum < static_cast<Acc>(k.norm_eps));
  for (int j = 0; through_sum && j < k.slots; ++j)
    if (token.kept(j)) inner += d_divided(j) * (token.value(j) / total / total);
  for (int j = 0; j < k.slots; ++j) {
    const std::int64_t at = token.first + j;
    const bool kept = token.kept(j);
    static_cast<Acc*>(out.values)[at] = kept ? d_divided(j) / total - inner : Acc(0);
    if (out.scale_terms)
      out.scale_terms[at] = kept ? static_cast<float>(d_weight(j) * (token.value(j) / total * scale)) : 0.0f;
  }
}

template <class Acc>
__global__ void backward(const KeptSlots k, const void* d_weights, DataType type, const KeptGradients out) {
  wait_for_earlier_kernels();
  const std::int64_t t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= k.tokens) return;
  const TokenSlots<Acc> token{k, t * k.slots};
  if (k.values) return divided_backward(token, d_weights, type, out);
  for (int j = 0; j < k.slots; ++j)
    static_cast<Acc*>(out.values)[token.first + j] =
        token.kept(j) ? load_element<Acc>(d_weights, type, token.first + j) : Acc(0);
}

LaunchShape launch_shape(const KeptSlots& k, cudaStream_t stream) {
  return {static_cast<unsigned>((k.tokens + kTokensPerBlock - 1) / kTokensPerBlock), kTokensPerBlock, 0,
          stream};
}

}  // namespace

void weigh_kept_slots(const KeptSlots& k, const KeptWeights& out, cudaStream_t stream) {
  if (k.tokens == 0 || (!out.weights && !out.weights_float)) return;
  with_accumulator(k.values_type, [&]<class Acc>() {
    launch_overlapped<weigh<Acc>>("weigh_kept_slots", launch_shape(k, stream), k, out);
  });
}

void kept_slots_backward(const KeptSlots& k, const void* d_weights, DataType type, const KeptGradients& out,
                         cudaStream_t stream) {
  if (k.tokens == 0) return;
  with_accumulator(k.values_type, [&]<class Acc>() {
    launch_overlapped<backward<Acc>>("kept_slots_backward", launch_shape(k, stream), k, d_weights, type, out);
  });
}

}  // namespace moeref::cuda
