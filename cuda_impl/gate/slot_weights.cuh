// Routing weights of one token in one warp: lane l holds slots l and l + 32.
#pragma once

#include "cuda_impl/gate/routing_rule.hpp"

namespace moeref::cuda {

/// w of this lane's slots from the values at their ids, in place; without route_scale and the factors of
/// experts.
template <bool kBeyond, class Acc>
__device__ void unscaled_weights_of(const RoutingRule& rule, Acc (&v)[2]) {
  const int lane = threadIdx.x % 32;
  const auto valid = [&](int i) { return lane + 32 * i < rule.slots; };
  if (rule.softmax_of_selected) {
    const Acc z[2] = {v[0], v[1]};
    warp_softmax(z, valid, v);
  }
  if (rule.normalise) {
    const Acc sum =
        denominator<kBeyond>(rule, warp_sum((valid(0) ? v[0] : Acc(0)) + (valid(1) ? v[1] : Acc(0))));
    v[0] /= sum, v[1] /= sum;
  }
}

/// The same with route_scale.
template <bool kBeyond, class Acc>
__device__ void weights_of(const RoutingRule& rule, Acc (&v)[2]) {
  unscaled_weights_of<kBeyond>(rule, v);
  v[0] *= static_cast<Acc>(rule.route_scale), v[1] *= static_cast<Acc>(rule.route_scale);
}

}  // namespace moeref::cuda
