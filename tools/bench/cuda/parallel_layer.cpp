#include "tools/bench/cuda/parallel_layer.hpp"

#include <cmath>
#include <optional>

namespace moeref::cuda::bench {

namespace {

std::size_t numbers(std::int64_t a, std::int64_t b, std::int64_t c = 1) {
  return static_cast<std::size_t>(a * b * c);
}

}  // namespace

ExpertArrays::ExpertArrays(const ExpertsConfig& own, std::int64_t tokens)
    : gate_up(numbers(own.experts, own.dim, own.up_width()), 0.02f, 3),
      down(numbers(own.experts, own.inter_dim, own.dim), 0.02f, 4),
      dy(numbers(tokens, own.dim), 1.0f, 2),
      y(numbers(tokens, own.dim)),
      dx(numbers(tokens, own.dim)),
      d_gate_up(numbers(own.experts, own.dim, own.up_width())),
      d_down(numbers(own.experts, own.inter_dim, own.dim)) {}

NormalBuffer gate_weight(const LayerConfig& c) {
  return {numbers(c.gate.experts, c.gate.dim), 1.0f / std::sqrt(static_cast<float>(c.gate.dim)), 5};
}

LayerTimes time_layer(const LayerConfig& c, const void* x, ParallelClock& clock, Group* group) {
  const ExpertsConfig own = group ? c.expert_parallel().own() : c.experts;
  const ExpertArrays a(own, c.gate.tokens);
  const NormalBuffer gate = gate_weight(c);
  const DeviceBuffer<std::uint16_t> d_gate(numbers(c.gate.experts, c.gate.dim));
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
  w.gate.weight = gate.data, w.experts = a.weights();
  LayerGradients d{a.dx.data};
  d.gate_weight = d_gate.data, d.experts.gate_and_up = a.d_gate_up.data, d.experts.down = a.d_down.data;
  LayerOutput out{a.y.data};
  if (!c.fake_balanced_gate) out.load = load.data;
  Blas blas;
  const auto forward = [&](void* keep) {
    layer_forward(c, w, {x}, out, keep, work.data, blas, clock.stream, groups);
  };
  LayerTimes times{};
  times.forward_ms = clock.median_ms([&] { forward(nullptr); });
  times.both_ms = clock.median_ms([&] {
    forward(saved.data);
    layer_backward(c, w, {x}, a.dy.data, saved.data, d, work.data, blas, clock.stream, groups);
  });
  return times;
}

}  // namespace moeref::cuda::bench
