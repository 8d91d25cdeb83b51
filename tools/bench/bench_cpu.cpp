#include <fmt/core.h>

#include <algorithm>
#include <chrono>

#include "golden/catalogue/case_size.hpp"
#include "moeref/error.hpp"
#include "moeref/reference.hpp"
#include "tools/bench/bench_ports.hpp"
#include "tools/bench/products.hpp"

namespace moeref {
namespace {

using bench::Layer;
using bench::Measurement;

CaseSpec spec_of(const Layer& layer, Component component) {
  CaseSpec spec;
  spec.name = "bench";
  spec.component = component;
  spec.config =
      component == Component::mlp ? to_json(shared_experts_config(layer.config)) : to_json(layer.config);
  if (layer.options.gate_precision) spec.options["gate_precision"] = name(*layer.options.gate_precision);
  spec.options["training"] = layer.options.training;
  if (component == Component::moe && layer.options.fake_balanced_gate) {
    spec.options["fake_balanced_gate"] = true;
    spec.options["fake_gate_noise"] = layer.options.fake_gate_noise;
  }
  spec.tokens = {layer.tokens};
  spec.backward = true;
  spec.margin = 0.0;  // redrawing tokens is no part of what is timed
  return spec;
}

/// Most rows of an expert over their mean; nothing where the call routes nothing.
std::optional<double> imbalance(const Call& call, const Evaluation& result, std::int64_t experts) {
  std::vector<double> ids;
  if (const Tensor* given = find(call.tensors, "inputs/indices")) ids = given->doubles();
  if (const auto chosen = result.results.find("outputs/indices"); chosen != result.results.end())
    ids = chosen->second.value;
  std::vector<double> load(static_cast<std::size_t>(experts), 0.0);
  for (const double id : ids)
    if (id >= 0.0 && id < static_cast<double>(experts)) load[static_cast<std::size_t>(id)] += 1.0;
  if (ids.empty()) return std::nullopt;
  return *std::ranges::max_element(load) * static_cast<double>(experts) / static_cast<double>(ids.size());
}

/// Without them the call is a forward one.
NamedTensors take_cotangents(Call& call) {
  NamedTensors out;
  for (auto at = call.tensors.begin(); at != call.tensors.end();) {
    const auto next = std::next(at);
    if (at->first.starts_with("cotangents/")) out.insert(call.tensors.extract(at));
    at = next;
  }
  return out;
}

double milliseconds(const Call& call, Evaluation& result) {
  const auto began = std::chrono::steady_clock::now();
  result = evaluate(call);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
}

void set_times(Measurement& m, std::vector<double> times) {
  std::ranges::sort(times);
  m.median_ms = times[times.size() / 2], m.least_ms = times.front(), m.most_ms = times.back();
}

}  // namespace

std::vector<Measurement> measure_reference(const Layer& layer, Component component, int repeat) {
  const CaseSpec spec = spec_of(layer, component);
  // Its tensors, and them once more as doubles.
  const double bytes = 2.0 * bytes_of(spec);
  if (bytes > memory_of_machine())
    throw InputError(fmt::format("takes about {:.1f} GiB and this machine has {:.1f} GiB", bytes / (1u << 30),
                                 memory_of_machine() / (1u << 30)));
  Call call = build_call(spec);
  NamedTensors cotangents = take_cotangents(call);

  Measurement forward;
  forward.component = component;
  forward.flops = bench::forward_flops(component, layer);
  std::vector<double> forward_ms, both_ms;
  Evaluation result;
  call.backward = false;
  milliseconds(call, result);  // the first call also starts threads and touches memory for the first time
  for (int i = 0; i < std::max(repeat, 1); ++i) {
    call.backward = false;
    forward_ms.push_back(milliseconds(call, result));
    if (component != Component::mlp)
      forward.imbalance = imbalance(call, result, layer.config.n_routed_experts);
    result = {};
    call.backward = true;
    call.tensors.merge(cotangents);
    both_ms.push_back(milliseconds(call, result));
    cotangents = take_cotangents(call);
  }
  Measurement both = forward;
  both.backward = true;
  both.flops = 3.0 * forward.flops;
  set_times(forward, forward_ms);
  set_times(both, both_ms);
  return {forward, both};
}

}  // namespace moeref
