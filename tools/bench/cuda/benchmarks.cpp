#include "tools/bench/cuda/benchmarks.hpp"

#include <algorithm>
#include <array>
#include <random>

#include "cuda_impl/adaptors/layer_config.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "moeref/cuda/error.hpp"
#include "tools/bench/cuda/least_saved.hpp"
#include "tools/bench/cuda/parameters.hpp"

namespace moeref::cuda::bench {
namespace {

using moeref::bench::Layer;

constexpr std::array kBenchmarks{
    Benchmark{Component::gate, prepare_gate}, Benchmark{Component::experts, prepare_experts},
    Benchmark{Component::mlp, prepare_mlp}, Benchmark{Component::moe, prepare_layer}};

/// k different experts per token, each equally likely.
std::vector<int> random_routing(std::int64_t tokens, int experts, int slots) {
  std::mt19937 random(7);
  std::vector<int> order(static_cast<std::size_t>(experts)), ids;
  for (int e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
  ids.reserve(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(slots));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int j = 0; j < slots; ++j) {
      const auto left = static_cast<std::uint32_t>(experts - j);
      std::swap(order[static_cast<std::size_t>(j)], order[static_cast<std::size_t>(j) + random() % left]);
      ids.push_back(order[static_cast<std::size_t>(j)]);
    }
  return ids;
}

template <class T>
T* upload(const std::vector<T>& values, Buffers& memory) {
  T* out = memory.zeros_of<T>({static_cast<std::int64_t>(values.size())});
  check(cudaMemcpy(out, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  return out;
}

}  // namespace

std::span<const Benchmark> benchmarks() { return kBenchmarks; }

Prepared prepare_gate(const Layer& layer, Buffers& memory, Blas&) {
  const GateConfig c = gate_config(layer.config, layer.options, layer.tokens, memory.type(), memory.type());
  const std::size_t forward_bytes = gate_forward_workspace_bytes(c),
                    backward_bytes = gate_backward_workspace_bytes(c);
  Prepared out;
  out.saved = gate_saved_bytes(c);
  void *saved = memory.zeros(out.saved), *work = memory.zeros(std::max(forward_bytes, backward_bytes));
  const InputSets x = memory.inputs({c.tokens, c.dim}, 1.0);
  const void* d_weights = memory.normal({c.tokens, c.slots}, 1.0, c.weights_type());
  const GateTensors w = gate_tensors(layer.config, memory);
  GateOutput to{memory.zeros_of<int>({c.tokens, c.slots})};
  to.weights_float = memory.zeros_of<float>({c.tokens, c.slots});
  to.load = memory.zeros_of<std::int64_t>({c.experts});
  to.aux_loss = memory.zeros_of<float>({1});
  GateGradients d;
  d.x = memory.result({c.tokens, c.dim}), d.weight = w.weight.gradient, d.bias = w.bias.gradient;

  out.forward = [=](int i) { gate_forward(c, w.values, {x(i)}, to, nullptr, work, nullptr); };
  out.both = [=](int i) {
    gate_forward(c, w.values, {x(i)}, to, saved, work, nullptr);
    gate_backward(c, w.values, {x(i)}, to.ids, d_weights, c.weights_type(), saved, d, work, nullptr);
  };
  const double slots = static_cast<double>(c.tokens) * c.slots;
  out.ids = to.ids;
  out.input_bytes = static_cast<double>(c.tokens) * c.dim * static_cast<double>(bytes_of(c.x_type));
  out.output_bytes = slots * (sizeof(int) + sizeof(float));
  out.forward_memory = forward_bytes;
  out.both_memory = out.saved + std::max(forward_bytes, backward_bytes);
  out.least_saved = least_saved(c);
  return out;
}

Prepared prepare_experts(const Layer& layer, Buffers& memory, Blas&) {
  ExpertsConfig c = experts_config(layer.config, layer.tokens, memory.type(), ExpertsPath::automatic);
  c.path = selected_path(c);
  const std::size_t forward_bytes = forward_workspace_bytes(c), backward_bytes = backward_workspace_bytes(c);
  Prepared out;
  out.saved = saved_bytes(c);
  void *saved = memory.zeros(out.saved), *work = memory.zeros(std::max(forward_bytes, backward_bytes));
  const InputSets x = memory.inputs({c.tokens, c.dim}, 1.0), dy = memory.inputs({c.tokens, c.dim}, 1.0);
  const ExpertsTensors w = experts_tensors(layer.config, memory);
  const std::vector<int> routing = random_routing(c.tokens, c.experts, c.slots);
  const int* ids = upload(routing, memory);
  const float* weights =
      upload(std::vector<float>(routing.size(), 1.0f / static_cast<float>(c.slots)), memory);
  void* y = memory.result({c.tokens, c.dim});
  ExpertsGradients d = w.gradients;
  d.x = memory.result({c.tokens, c.dim}), d.weights = memory.zeros_of<float>({c.tokens, c.slots});

  out.forward = [=](int i) {
    experts_forward(c, w.values, {x(i), ids, weights, nullptr}, y, nullptr, work, nullptr);
  };
  out.both = [=](int i) {
    experts_forward(c, w.values, {x(i), ids, weights, nullptr}, y, saved, work, nullptr);
    experts_backward(c, w.values, {x(i), ids, weights, nullptr}, dy(i), saved, d, work, nullptr);
  };
  out.ids = ids;
  out.input_bytes = out.output_bytes =
      static_cast<double>(c.tokens) * c.dim * static_cast<double>(bytes_of(c.dtype));
  out.forward_memory = forward_bytes;
  out.both_memory = out.saved + std::max(forward_bytes, backward_bytes);
  out.least_saved = least_saved(c);
  out.kernels = word_of(c.path);
  return out;
}

}  // namespace moeref::cuda::bench
