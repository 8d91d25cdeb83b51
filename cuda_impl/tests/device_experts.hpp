// The CUDA experts on a HostCase, every output and workspace poisoned before the run.
#pragma once

#include "device.hpp"
#include "host_experts.hpp"

namespace moeref::cuda::test {

class DeviceExperts {
 public:
  explicit DeviceExperts(const HostCase& c)
      : config(c.config),
        x(c.x),
        gate_up(c.gate_up),
        down(c.down),
        gate_up_bias(c.gate_up_bias),
        down_bias(c.down_bias),
        d_output(c.d_output),
        ids(c.ids),
        weights(c.weights),
        mask(c.mask),
        saved(saved_bytes(config)),
        forward_work(forward_workspace_bytes(config)),
        backward_work(backward_workspace_bytes(config)),
        output(c.x.size()),
        dx(c.x.size()),
        dgate_up(c.gate_up.size()),
        ddown(c.down.size()),
        dgate_up_bias(c.gate_up_bias.size()),
        ddown_bias(c.down_bias.size()),
        dweights(c.ids.size()) {}

  void poison(int byte) {
    saved.poison(byte), forward_work.poison(byte), backward_work.poison(byte), output.poison(byte),
        dx.poison(byte);
    dgate_up.poison(byte), ddown.poison(byte), dgate_up_bias.poison(byte), ddown_bias.poison(byte),
        dweights.poison(byte);
  }
  void forward(cudaStream_t stream = nullptr) {
    experts_forward(config, parameters(), input(), output.data(), saved.data(), forward_work.data(), stream);
  }
  void backward(cudaStream_t stream = nullptr) {
    experts_backward(config, parameters(), input(), d_output.data(), saved.data(),
                     {dx.data(), dweights.data(), dgate_up.data(), ddown.data(), optional(dgate_up_bias),
                      optional(ddown_bias)},
                     backward_work.data(), stream);
  }
  ExpertsWeights parameters() const {
    return {gate_up.data(), down.data(), optional(gate_up_bias), optional(down_bias)};
  }
  ExpertsInput input() const { return {x.data(), ids.data(), weights.data(), optional(mask)}; }

  ExpertsConfig config;
  DeviceArray<bf16> x, gate_up, down, gate_up_bias, down_bias, d_output;
  DeviceArray<int> ids;
  DeviceArray<float> weights;
  DeviceArray<std::uint8_t> mask;
  DeviceArray<char> saved, forward_work, backward_work;
  DeviceArray<bf16> output, dx, dgate_up, ddown, dgate_up_bias, ddown_bias;
  DeviceArray<float> dweights;

 private:
  template <class T>
  static T* optional(const DeviceArray<T>& a) {
    return a.size() ? a.data() : nullptr;
  }
};

}  // namespace moeref::cuda::test
