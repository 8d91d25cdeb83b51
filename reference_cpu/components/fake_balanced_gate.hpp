// The gate that spreads tokens evenly, or at random from a seed in its input, for performance runs.
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/tensor.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

struct FakeRouting {
  Tensor indices;  ///< int64 [T, k]; with noise, distinct and in descending order of their random scores
  std::vector<double> weights;  ///< [T, k]: (1 - noise) / k + noise r / sum r in fp64, from the fp32 draws r
  std::vector<float> uniforms;  ///< [T, k], those r; empty without noise
  double noise = 0.0;
};

/// The generator's seed: int(1e6 s) & 0x7fffffff, where s is the fp32 sum, from the left, of x's first four
/// elements (of all, if there are fewer), the product is in fp64 and int() truncates to any integer. Throws
/// InputError if s is not finite.
std::uint32_t fake_balanced_gate_seed(const Tensor& x);

/// x [..., D] of any floating dtype, T rows in all; only their number and the seed matter. Experts below
/// `skip` are never chosen. Without noise ids are dealt in turn and repeat in a token where k > E - skip.
/// With noise the draws and the fp32 scores have the bits of PyTorch 2.11 on x86-64, so ids are exact; equal
/// scores, whose order PyTorch leaves open, go to the lowest id. Where all r of a token are 0 (one token in
/// 2^24 at k = 1) its weights are NaN, as in the documented system. Throws InputError for skip outside [0,
/// E), noise outside [0, 1], fewer than k experts with noise, a bad seed. Source: FakeBalancedGate of the
/// documented system.
FakeRouting fake_balanced_gate(const Tensor& x, const MoEConfig& config, std::int64_t skip, double noise);

/// The weights [T, k] as the documented system rounds them: fp32 arithmetic, then stored in x's dtype.
Bounded fake_balanced_weights(const FakeRouting& routing, std::int64_t k, DType dtype);

}  // namespace moeref
