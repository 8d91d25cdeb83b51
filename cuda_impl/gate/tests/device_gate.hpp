// The gate on device arrays of its own, every output and workspace poisoned: for what goes past named
// tensors.
#pragma once

#include <cmath>
#include <random>

#include "cuda_impl/tests/device.hpp"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda::test {

inline std::vector<__nv_bfloat16> normal_bfloat16(std::size_t count, double scale, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal;
  std::vector<__nv_bfloat16> out(count);
  for (auto& v : out) v = __float2bfloat16(normal(bits) * static_cast<float>(scale));
  return out;
}

/// bfloat16, with a bias of the router and the auxiliary loss where the config has it.
class DeviceGate {
 public:
  explicit DeviceGate(const GateConfig& c, std::uint64_t seed = 1)
      : config(c),
        x(normal_bfloat16(c.tokens * c.dim, 1.0, seed)),
        weight(normal_bfloat16(c.experts * c.dim, 1.0 / std::sqrt(c.dim), seed + 1)),
        bias(normal_bfloat16(c.experts, 0.1, seed + 2)),
        d_weights(normal_bfloat16(c.tokens * c.slots, 1.0, seed + 3)),
        mask(std::vector<std::uint8_t>(c.tokens, 1)),
        ids(c.tokens * c.slots),
        weights(c.tokens * c.slots),
        weights_float(c.tokens * c.slots),
        load(c.experts),
        aux_loss(1),
        dx(c.tokens * c.dim),
        dweight(c.experts * c.dim),
        dbias(c.experts),
        saved(gate_saved_bytes(c)),
        forward_work(gate_forward_workspace_bytes(c)),
        backward_work(gate_backward_workspace_bytes(c)) {}

  GateParameters parameters() const { return {weight.data(), bias.data(), nullptr}; }
  GateInput input() const { return {x.data(), mask.data(), replay}; }
  void forward(cudaStream_t stream = nullptr) {
    GateOutput out{ids.data()};
    out.weights = weights.data();
    out.weights_float = weights_float.data();
    out.load = load.data();
    out.aux_loss = aux_loss.data();
    gate_forward(config, parameters(), input(), out, saved.data(), forward_work.data(), stream);
  }
  void backward(bool add_to_x = false, cudaStream_t stream = nullptr) {
    gate_backward(config, parameters(), input(), ids.data(), d_weights.data(), DataType::bfloat16,
                  saved.data(), {dx.data(), dweight.data(), dbias.data(), add_to_x}, backward_work.data(),
                  stream);
  }
  void poison(int byte) {
    ids.poison(byte), weights.poison(byte), weights_float.poison(byte), load.poison(byte),
        aux_loss.poison(byte);
    dx.poison(byte), dweight.poison(byte), dbias.poison(byte);
    saved.poison(byte), forward_work.poison(byte), backward_work.poison(byte);
  }

  GateConfig config;
  DeviceArray<__nv_bfloat16> x, weight, bias, d_weights;
  DeviceArray<std::uint8_t> mask;
  const int* replay = nullptr;
  DeviceArray<int> ids;
  DeviceArray<__nv_bfloat16> weights;
  DeviceArray<float> weights_float;
  DeviceArray<std::int64_t> load;
  DeviceArray<float> aux_loss;
  DeviceArray<__nv_bfloat16> dx, dweight, dbias;
  DeviceArray<char> saved, forward_work, backward_work;
};

}  // namespace moeref::cuda::test
