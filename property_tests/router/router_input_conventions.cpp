// What the gate sees of its tokens by rules that the documented system does not have (SPEC 10): normalised
// tokens, and tokens times noise.
#include <algorithm>
#include <cmath>
#include <vector>

#include "moeref/reference.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void arrange_router_input(Descriptor& d) {
  arrange_plain(d);
  d.config.router_input_norm = true;
  d.config.router_input_norm_eps = d.seed % 2 == 0 ? 1e-6 : 0.125;
  d.config.per_expert_scale = false;
  d.score = d.seed % 4 < 2 ? ScoreFunc::sigmoid : ScoreFunc::softmax;
  d.before_topk = true;
  d.norm = d.biased_weights = d.frozen = false;
  d.aux = 0.0;
  d.config.z_loss_coeff = 0.0;
  d.logits = Logits::rough;
  d.values = Values::rough;
  d.poison = NonFinite::none;
  d.D = std::max<std::int64_t>(d.D, 2);
}

/// The documented gate in double, on the tokens that a convention makes of x, with the choices of `a`.
Evaluation plain_gate(const Call& call, const Answer& a) {
  Call out = call;
  for (const char* field : {"router_input_norm", "router_input_norm_eps", "router_jitter"})
    out.config.erase(field);
  const Matrix seen = router_input_of(call);
  for (const char* tensor : {"params/input_scale", "inputs/router_noise"}) out.tensors.erase(tensor);
  out = in_dtype(std::move(out), DType::float64);
  out.options["gate_precision"] = "float64";
  out.tensors["inputs/replay_indices"] = a["outputs/indices"];
  Tensor& given = out.tensors.at("inputs/x");
  for (std::int64_t i = 0; i < given.size(); ++i) given.set(i, seen.values[static_cast<std::size_t>(i)]);
  return evaluate(out);
}

/// Weights by the formula on normalised tokens; and gradients: those of the same gate on the tokens as they
/// are normalised, through the norm.
void router_input(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const Answer a(impl, call);
  expect_weights(a, "the gate sees tokens over their root mean square, times the scale");
  if (!call.backward) return;
  const Matrix normed = router_input_of(call);
  const Tensor x = call.tensors.at("inputs/x"), scale = call.tensors.at("params/input_scale");
  const Evaluation plain = plain_gate(call, a);
  const std::vector<double>& back = plain.results.at("grads/x").value;
  std::vector<double> by_scale(static_cast<std::size_t>(d.D)), size(by_scale);
  for (std::int64_t t = 0; t < d.T; ++t) {
    double squares = 0.0, inner = 0.0, magnitude = 0.0;
    const auto at = [&](std::int64_t i) { return static_cast<std::size_t>(t * d.D + i); };
    for (std::int64_t i = 0; i < d.D; ++i) {
      const double term = back[at(i)] * scale[i] * x[t * d.D + i];
      squares += x[t * d.D + i] * x[t * d.D + i];
      inner += term;
      magnitude += std::abs(term);
      if (scale[i] == 0.0) continue;
      by_scale[static_cast<std::size_t>(i)] += back[at(i)] * normed.values[at(i)] / scale[i];
      size[static_cast<std::size_t>(i)] += std::abs(back[at(i)] * normed.values[at(i)] / scale[i]);
    }
    const auto width = static_cast<double>(d.D);
    const double mean = squares / width + c.router_input_norm_eps, norm = std::sqrt(mean * width);
    for (std::int64_t i = 0; i < d.D; ++i) {
      const double own = x[t * d.D + i] / (mean * width);
      const double want = (back[at(i)] * scale[i] - own * inner) / norm;
      expect_near(
          "grads/x", t * d.D + i, a.at("grads/x", t * d.D + i), want,
          a.bound("grads/x", t * d.D + i) + 1e-11 * (std::abs(own) * magnitude / norm + std::abs(want)),
          "the gradient passes the norm and its scale");
    }
  }
  for (std::int64_t i = 0; i < d.D; ++i)
    if (scale[i] != 0.0)
      expect_near("grads/input_scale", i, a.at("grads/input_scale", i), by_scale[static_cast<std::size_t>(i)],
                  a.bound("grads/input_scale", i) + 1e-11 * size[static_cast<std::size_t>(i)],
                  "the scale's gradient is that of the gate's input times the normalised token");
}

void arrange_router_jitter(Descriptor& d) {
  arrange_router_input(d);
  d.config.router_input_norm = false;
  d.config.router_jitter = true;
}

/// The gate on x times noise; the gradient of x has the noise once more, and the weight's is that of what the
/// gate saw.
void router_jitter(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  expect_weights(a, "the gate sees tokens times the noise");
  if (!call.backward) return;
  const Evaluation plain = plain_gate(call, a);
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  const auto expect_all = [&](const char* name, const auto& factor, const char* what) {
    const std::vector<double>& want = plain.results.at(name).value;
    for (std::int64_t i = 0; i < std::ssize(want); ++i) {
      const double value = want[static_cast<std::size_t>(i)] * factor(i);
      expect_near(name, i, a.at(name, i), value, a.bound(name, i) + 1e-11 * std::abs(value), what);
    }
  };
  expect_all(
      "grads/x", [&](std::int64_t i) { return noise[i]; }, "the gradient of x has the noise too");
  expect_all(
      "grads/weight", [](std::int64_t) { return 1.0; }, "the gate's weight has seen the noise");
}

const Property kRouterInputConventionProperties[] = {
    {"C8",
     "router_input",
     {Component::gate},
     PropertyClass::bounded,
     "under router_input_norm the gate sees normalised tokens, whose gradients pass the norm and its scale",
     {"root mean square", "the norm's gradient"},
     arrange_router_input,
     router_input,
     Passes::either},
    {"C8",
     "router_jitter",
     {Component::gate},
     PropertyClass::bounded,
     "under router_jitter the gate sees tokens times noise, as does the way back",
     {"jitter"},
     arrange_router_jitter,
     router_jitter,
     Passes::either},
};

}  // namespace

std::span<const Property> router_input_convention_properties() { return kRouterInputConventionProperties; }

}  // namespace moeref
