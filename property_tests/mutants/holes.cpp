#include "property_tests/mutants/tables.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/mutants/mutant_parts.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {
namespace {

/// The kernel writes the gradients of slots that have an expert; the others hold those of the call before.
class StaleWeightGradient final : public Implementation {
 public:
  explicit StaleWeightGradient(Implementation& sound) : sound_(sound) {}
  std::string name() const override { return sound_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    const auto found = out.find("grads/weights");
    if (call.component != Component::experts || found == out.end()) return out;
    Tensor& gradient = found->second;
    const Tensor& ids = call.tensors.at("inputs/indices");
    const auto before = buffers_.find(gradient.shape());
    for (std::int64_t i = 0; before != buffers_.end() && i < gradient.size(); ++i)
      if (ids[i] < 0.0 || !is_live(call, i / ids.extent(1))) gradient.set(i, before->second[i]);
    buffers_.insert_or_assign(gradient.shape(), gradient);
    return out;
  }

 private:
  Implementation& sound_;
  std::map<Shape, Tensor> buffers_;
};

/// exp(z - m) overflows where the largest of the first 16 logits is far below the largest of all.
NamedTensors softmax_maximum_of_16_lanes(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || !call.config.value("score_func", "").starts_with("softmax"))
    return out;
  const Matrix z = logits_of(call);
  Tensor& weights = out.at("outputs/weights");
  const std::int64_t k = weights.extent(1);
  for (std::int64_t t = 0; t < z.rows; ++t) {
    double of_16 = -INFINITY, of_all = -INFINITY;
    for (std::int64_t e = 0; e < z.cols; ++e) {
      of_all = std::max(of_all, z.at(t, e));
      if (e < 16) of_16 = of_all;
    }
    for (std::int64_t j = 0; of_all - of_16 > 88.7 && j < k; ++j) weights.set(t * k + j, kNotANumber);
  }
  return out;
}

NamedTensors nan_selects_expert_0(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || call.tensors.contains("inputs/replay_indices")) return out;
  const Matrix z = logits_of(call);
  Tensor& ids = out.at("outputs/indices");
  for (std::int64_t t = 0; t < z.rows; ++t) {
    bool nan = false;
    for (std::int64_t e = 0; e < z.cols; ++e) nan = nan || std::isnan(z.at(t, e));
    for (std::int64_t j = 0; nan && j < ids.extent(1); ++j) ids.set(t * ids.extent(1) + j, 0.0);
  }
  return out;
}

/// A guard that belongs in a denominator, added to the sum itself: too small for any bound but float64's.
NamedTensors epsilon_in_the_output(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const auto y = out.find("outputs/y");
  if (y == out.end() || call.component == Component::moe) return out;
  for (std::int64_t i = 0; i < y->second.size(); ++i) y->second.set(i, y->second[i] + 1e-12);
  return out;
}

const Mutant kHolesMutants[] = {
    {"stale_gradient_of_absent_slots",
     "O17",
     "",
     {Component::experts},
     "slots without an expert keep the routing weight's gradient of the call before",
     "GS",
     "grads/weights",
     "absent_slots",
     nullptr,
     [](Implementation& sound) -> std::unique_ptr<Implementation> {
       return std::make_unique<StaleWeightGradient>(sound);
     }},
    {"softmax_maximum_of_16_lanes",
     "",
     "",
     {Component::gate},
     "the maximum that the softmax takes off is that of the first 16 experts",
     "FL",
     "outputs/weights",
     "lone_large_logit",
     softmax_maximum_of_16_lanes},
    {"nan_selects_expert_0",
     "",
     "vllm #39244, #39391",
     {Component::gate},
     "a token of NaN gets expert 0 in every slot",
     "F",
     "outputs/indices",
     "poisoned_token",
     nan_selects_expert_0},
    {"epsilon_in_the_output",
     "",
     "",
     {Component::experts, Component::mlp},
     "an epsilon is added to every output",
     "F",
     "outputs/y",
     "exact_doubling",
     epsilon_in_the_output},
};

}  // namespace

std::span<const Mutant> holes_mutants() { return kHolesMutants; }

}  // namespace moeref
