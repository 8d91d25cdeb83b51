// The whole layer, and its dense part, the shared experts.
#include <algorithm>
#include <cmath>

#include "cuda_impl/adaptors/layer_config.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "tools/bench/cuda/benchmarks.hpp"
#include "tools/bench/cuda/least_saved.hpp"
#include "tools/bench/cuda/parameters.hpp"

namespace moeref::cuda::bench {

using moeref::bench::Layer;

Prepared prepare_mlp(const Layer& layer, Buffers& memory, Blas& blas) {
  const moeref::MLPConfig documented = shared_experts_config(layer.config);
  const MLPConfig c = mlp_config(documented, layer.tokens, memory.type());
  const std::size_t forward_bytes = mlp_forward_workspace_bytes(c),
                    backward_bytes = mlp_backward_workspace_bytes(c);
  Prepared out;
  out.saved = mlp_saved_bytes(c);
  void *saved = memory.zeros(out.saved), *work = memory.zeros(std::max(forward_bytes, backward_bytes));
  const InputSets x = memory.inputs({c.tokens, c.dim}, 1.0), dy = memory.inputs({c.tokens, c.dim}, 1.0);
  const MLPTensors w = mlp_tensors(documented, memory);
  void* y = memory.result({c.tokens, c.dim});
  MLPGradients d = w.gradients;
  d.x = memory.result({c.tokens, c.dim});

  Blas* const handle = &blas;
  out.forward = [=](int i) { mlp_forward(c, w.values, {x(i)}, y, false, nullptr, work, *handle, nullptr); };
  out.both = [=](int i) {
    mlp_forward(c, w.values, {x(i)}, y, false, saved, work, *handle, nullptr);
    mlp_backward(c, w.values, {x(i)}, dy(i), saved, d, work, *handle, nullptr);
  };
  out.input_bytes = out.output_bytes =
      static_cast<double>(c.tokens) * c.dim * static_cast<double>(bytes_of(c.dtype));
  out.forward_memory = forward_bytes;
  out.both_memory = out.saved + std::max(forward_bytes, backward_bytes);
  out.least_saved = least_saved(c);
  return out;
}

namespace {

struct LayerTensors {
  LayerWeights values{};
  LayerGradients gradients{};
};

LayerTensors layer_tensors(const Layer& layer, Buffers& memory) {
  const MoEConfig& c = layer.config;
  LayerTensors out;
  LayerWeights& w = out.values;
  LayerGradients& d = out.gradients;
  const auto parameter = [&](const void*& value, void*& gradient, Extents extents) {
    const double inputs = static_cast<double>(*(extents.end() - 1));  // outputs of deviation 1
    const Parameter made = memory.parameter(extents, 1.0 / std::sqrt(inputs));
    value = made.value, gradient = made.gradient;
  };
  if (!layer.options.fake_balanced_gate) {
    const GateTensors gate = gate_tensors(c, memory);
    w.gate = gate.values, d.gate_weight = gate.weight.gradient, d.gate_bias = gate.bias.gradient;
  }
  const ExpertsTensors experts = experts_tensors(c, memory);
  w.experts = experts.values, d.experts = experts.gradients;
  if (c.n_shared_experts > 0) {
    const MLPTensors shared = mlp_tensors(shared_experts_config(c), memory);
    w.shared = shared.values, d.shared = shared.gradients;
    if (c.shared_expert_gate) parameter(w.shared_gate, d.shared_gate, {1, c.dim});
  }
  if (c.moe_latent_size) {
    parameter(w.fc1_weight, d.fc1_weight, {*c.moe_latent_size, c.dim});
    parameter(w.fc2_weight, d.fc2_weight, {c.dim, *c.moe_latent_size});
    if (c.expert_bias) {
      parameter(w.fc1_bias, d.fc1_bias, {*c.moe_latent_size});
      parameter(w.fc2_bias, d.fc2_bias, {c.dim});
    }
    if (c.latent_norm != moeref::LatentNorm::none)
      parameter(w.latent_norm, d.latent_norm, {*c.moe_latent_size});
  }
  return out;
}

}  // namespace

Prepared prepare_layer(const Layer& layer, Buffers& memory, Blas& blas) {
  const LayerConfig c = layer_config(layer.config, layer.options, layer.tokens, memory.type(), memory.type(),
                                     ExpertsPath::automatic);
  const ExpertsPath path = selected_path(c.experts);
  const std::size_t forward_bytes = layer_forward_workspace_bytes(c),
                    backward_bytes = layer_backward_workspace_bytes(c);
  Prepared out;
  out.saved = layer_saved_bytes(c);
  void *saved = memory.zeros(out.saved), *work = memory.zeros(std::max(forward_bytes, backward_bytes));
  const std::int64_t tokens = c.gate.tokens, dim = c.gate.dim;
  const InputSets x = memory.inputs({tokens, dim}, 1.0), dy = memory.inputs({tokens, dim}, 1.0);
  const LayerTensors w = layer_tensors(layer, memory);
  LayerOutput to{memory.result({tokens, dim})};
  to.ids = memory.zeros_of<int>({tokens, c.gate.slots});
  if (!c.fake_balanced_gate) {
    to.load = memory.zeros_of<std::int64_t>({c.gate.experts});
    if (c.gate.has_aux_loss()) to.aux_loss = memory.zeros_of<float>({1});
  }
  LayerGradients d = w.gradients;
  d.x = memory.result({tokens, dim});

  Blas* const handle = &blas;
  out.forward = [=](int i) { layer_forward(c, w.values, {x(i)}, to, nullptr, work, *handle, nullptr); };
  out.both = [=](int i) {
    layer_forward(c, w.values, {x(i)}, to, saved, work, *handle, nullptr);
    layer_backward(c, w.values, {x(i)}, dy(i), saved, d, work, *handle, nullptr);
  };
  out.ids = to.ids;
  out.input_bytes = out.output_bytes =
      static_cast<double>(tokens) * static_cast<double>(dim) * static_cast<double>(bytes_of(c.dtype()));
  out.forward_memory = forward_bytes;
  out.both_memory = out.saved + std::max(forward_bytes, backward_bytes);
  out.least_saved = least_saved(c);
  out.kernels = word_of(path);
  return out;
}

}  // namespace moeref::cuda::bench
