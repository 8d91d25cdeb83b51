#include "tools/bench/cuda/parallel_layer.hpp"

#include <cuda_bf16.h>

#include <cmath>
#include <optional>

namespace moeref::cuda::bench {

namespace {

std::size_t gate_size(const LayerConfig& c) {
  return static_cast<std::size_t>(c.gate.experts) * static_cast<std::size_t>(c.gate.dim);
}

}  // namespace

NormalBuffer gate_weight(const LayerConfig& c) {
  return {gate_size(c), 1.0f / std::sqrt(static_cast<float>(c.gate.dim)), 5};
}

LayerTimes time_layer(const LayerConfig& c, const void* x, ParallelClock& clock, Group* group) {
  const ExpertsConfig own = group ? c.expert_parallel().own() : c.experts;
  const auto experts = static_cast<std::size_t>(own.experts), dim = static_cast<std::size_t>(own.dim),
             inner = static_cast<std::size_t>(own.inter_dim),
             tokens = static_cast<std::size_t>(c.gate.tokens);
  const NormalBuffer gate = gate_weight(c);
  const NormalBuffer gate_up(experts * dim * 2 * inner, 0.02f, 3), down(experts * inner * dim, 0.02f, 4),
      dy(tokens * dim, 1.0f, 2);
  const DeviceBuffer<__nv_bfloat16> y(tokens * dim), dx(tokens * dim), d_gate(gate_size(c)),
      d_gate_up(experts * dim * 2 * inner), d_down(experts * inner * dim);
  const DeviceBuffer<std::int64_t> load(static_cast<std::size_t>(c.gate.experts));
  const DeviceBuffer<char> saved(layer_saved_bytes(c)),
      work(std::max(layer_forward_workspace_bytes(c), layer_backward_workspace_bytes(c)));
  std::optional<Window> kept, transient;
  LayerGroups groups;
  if (group) {
    kept = kept_window(c.expert_parallel(), *group),
    transient = transient_window(c.expert_parallel(), *group);
    groups = {group, {&*kept, &*transient}};
  }
  LayerWeights w;
  w.gate.weight = gate.data, w.experts = {gate_up.data, down.data, nullptr, nullptr};
  LayerGradients d{dx.data};
  d.gate_weight = d_gate.data, d.experts.gate_and_up = d_gate_up.data, d.experts.down = d_down.data;
  LayerOutput out{y.data};
  if (!c.fake_balanced_gate) out.load = load.data;
  Blas blas;
  const auto forward = [&](void* keep) {
    layer_forward(c, w, {x}, out, keep, work.data, blas, clock.stream, groups);
  };
  LayerTimes times{};
  times.forward_ms = clock.median_ms([&] { forward(nullptr); });
  times.both_ms = clock.median_ms([&] {
    forward(saved.data);
    layer_backward(c, w, {x}, dy.data, saved.data, d, work.data, blas, clock.stream, groups);
  });
  return times;
}

}  // namespace moeref::cuda::bench
