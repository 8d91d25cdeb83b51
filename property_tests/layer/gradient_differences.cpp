// Gradients against differences of the implementation's own forward pass, under random cotangents.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "property_tests/layer/central_difference.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {
namespace {

/// <u, output> plus the auxiliary loss as it enters the backward pass. The ids are given, so the load is a
/// constant here as it is there.
class Loss {
 public:
  Loss(const Descriptor& d, const Call& call)
      : output_(d.component == Component::gate ? "outputs/weights" : "outputs/y"),
        cotangent_(
            require(call.tensors, d.component == Component::gate ? "cotangents/weights" : "cotangents/y")),
        aux_(d.aux * d.aux_scale) {}

  /// Its terms, one for each element of the output.
  std::vector<double> terms(const Answer& a) const {
    std::vector<double> out;
    for (std::int64_t i = 0; i < cotangent_.size(); ++i) out.push_back(cotangent_[i] * a.at(output_, i));
    if (a.has("outputs/aux_loss")) out.push_back(aux_ * a.at("outputs/aux_loss", 0));
    return out;
  }
  double operator()(const Answer& a) const {
    double sum = 0.0;
    for (const double term : terms(a)) sum += term;
    return sum;
  }
  /// What rounding may do to it.
  double noise(const Answer& a) const {
    double sum = a.has("outputs/aux_loss") ? aux_ * a.bound("outputs/aux_loss", 0) : 0.0;
    for (std::int64_t i = 0; i < cotangent_.size(); ++i)
      sum += std::abs(cotangent_[i]) * (a.bound(output_, i) + 0x1p-50 * std::abs(a.at(output_, i)));
    return sum;
  }

 private:
  std::string output_;
  Tensor cotangent_;
  double aux_;
};

/// "inputs/x" or "params/weight" of "grads/x", "grads/weight".
std::string differentiated(const Call& call, std::string_view grad) {
  const std::string stem(grad.substr(std::string_view("grads/").size()));
  return (call.tensors.contains("params/" + stem) ? "params/" : "inputs/") + stem;
}

std::vector<double> normals(const Descriptor& d, const std::string& name, std::int64_t count) {
  std::vector<double> out(static_cast<std::size_t>(count));
  CounterGenerator(d.seed, "direction " + name).normals(0, out);
  return out;
}

/// The tensor moved by factor times the direction, as its dtype holds it.
Call moved(Call call, const std::string& name, const Tensor& along, double factor) {
  Tensor& tensor = call.tensors.at(name);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, tensor[i] + factor * along[i]);
  return call;
}

struct Slope {
  double along = 0.0, bound = 0.0, magnitude = 0.0;
};

/// <gradient, step>.
Slope slope_of(const Answer& a, const std::string& grad, const Tensor& step) {
  Slope out;
  const Tensor& g = a[grad];
  for (std::int64_t i = 0; i < g.size(); ++i) {
    out.along += g[i] * step[i];
    out.magnitude += std::abs(g[i] * step[i]);
    out.bound += std::abs(step[i]) * (a.bound(grad, i) + 0x1p-50 * std::abs(g[i]));
  }
  return out;
}

/// Every gradient of a call in one precision against differences of its outputs.
void expect_slopes(Implementation& impl, const Descriptor& d, const Call& call, const Steps& steps) {
  const Call forward = forward_alone(call);
  const Answer base(impl, call);
  const Loss loss(d, call);
  const std::vector<double> at = loss.terms(base);
  // Float64's steps are so short that rounding stays what it is at the call itself.
  const double near_noise = 1.5 * loss.noise(base);
  bool told = false;
  for (const auto& [grad, tensor] : base.results()) {
    if (!grad.starts_with("grads/") || tensor.size() == 0) continue;
    const std::string name = differentiated(call, grad);
    const Tensor along = direction(steps, call.tensors.at(name), tensor, normals(d, name, tensor.size()));
    const Difference found = central_difference(steps, at, [&](double step) {
      const Answer there(impl, moved(forward, name, along, step));
      return Probe{loss.terms(there), steps.grid > 0.0 ? loss.noise(there) : near_noise};
    });
    const Slope want = slope_of(base, grad, along);
    const double bound = want.bound + found.error;
    if (!std::isfinite(bound)) continue;
    expect_near(grad, -1, want.along, found.slope, bound,
                "along a random direction in " + std::string(moeref::name(steps.dtype)) +
                    ", against a central difference");
    told = told || bound <= steps.telling * std::max(std::abs(found.slope), want.magnitude);
  }
  if (!told && d.T > 0) throw Discarded("rounding or a kink hides every slope");
}

/// In the widest precision that the implementation has.
void central_differences(Implementation& impl, const Descriptor& d) {
  const Call drawn = make_call(d, true);
  std::string declined;
  for (const Steps& steps : precision_steps()) {
    Call call = in_dtype(drawn, steps.dtype);
    for (auto& [name, tensor] : call.tensors)
      if (is_floating(tensor.dtype()) && !name.starts_with("cotangents/")) tensor = on_grid(tensor, steps);
    try {
      return expect_slopes(impl, d, call, steps);
    } catch (const NotSupported& reason) {
      if (declined.empty()) declined = reason.what();
    }
  }
  throw NotSupported(declined);
}

void arrange_differences(Descriptor& d) {
  arrange_given_routing(d);
  if (d.component == Component::gate) d.replay = true;
  d.dtype = DType::float64;
  d.config.gate_dtype.reset();
  d.precision.reset();
  d.weights_fp32 = false;
  d.T = std::min<std::int64_t>(d.T, 9);
  d.E = std::min<std::int64_t>(d.E, 8);
  d.D = std::min<std::int64_t>(d.D, 12);
  d.I = std::min<std::int64_t>(d.I, 8);
  if (d.values == Values::exact) d.values = Values::rough;
  if (d.logits == Logits::large) d.logits = Logits::levels;
  if (d.aux > 0.0 && d.seed % 2 == 0) d.aux_scale = 4.0;
}

/// The call in its own dtype, or in the widest other one that the implementation has; not in fp16, which may
/// overflow where a normal step is added.
Call in_own_dtype(const Implementation& impl, const Call& call) {
  if (!impl.unsupported(call)) return call;
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
    if (Call other = in_dtype(call, dtype); !impl.unsupported(other)) return other;
  return call;
}

/// In what the output is affine in, a difference of any size is the slope: no truncation, any dtype.
void linear_adjoint(Implementation& impl, const Descriptor& d) {
  static constexpr std::array<std::string_view, 7> kAffine{
      "down_projs",          "down_proj_bias", "weights",
      "down_proj.weight",    "down_proj.bias", "fc2_latent_proj.weight",
      "fc2_latent_proj.bias"};
  const Call call = in_own_dtype(impl, make_call(d, true));
  const Answer base(impl, call);
  const Loss loss(d, call);
  for (const auto& [grad, tensor] : base.results()) {
    const bool affine =
        std::ranges::any_of(kAffine, [&name = grad](std::string_view stem) { return name.ends_with(stem); });
    if (!grad.starts_with("grads/") || !affine) continue;
    const std::string name = differentiated(call, grad);
    const std::vector<double> random = normals(d, name, tensor.size());
    const Call far = moved(call, name, Tensor::of(tensor.shape(), std::span<const double>(random)), 1.0);
    Tensor step(DType::float64, tensor.shape());
    for (std::int64_t i = 0; i < step.size(); ++i)
      step.set(i, far.tensors.at(name)[i] - call.tensors.at(name)[i]);
    const Answer other(impl, far);
    const Slope want = slope_of(base, grad, step);
    expect_near(grad, -1, want.along, loss(other) - loss(base),
                want.bound + loss.noise(base) + loss.noise(other),
                "<gradient, step> = <cotangent, difference of outputs>, both affine");
  }
}

/// fp16 may overflow where a normal step is added.
void arrange_adjoint(Descriptor& d) {
  arrange_given_routing(d);
  d.aux = 0.0;
  if (d.dtype == DType::float16) d.dtype = DType::bfloat16;
  if (d.config.gate_dtype == DType::float16) d.config.gate_dtype = DType::bfloat16;
}

const Property kGradientDifferenceProperties[] = {
    {"P48",
     "central_differences",
     {Component::gate, Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "every gradient, along a random direction, is the central difference of the forward pass, in the widest "
     "precision that it has",
     {"A1", "A2", "A20", "A21", "A46", "M12", "O17", "every backward bug"},
     arrange_differences,
     central_differences,
     Passes::backward,
     Needs::nothing,
     true},
    {"P49",
     "linear_adjoint",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "<J v, u> = <v, J^T u> for all that the output is affine in: down projections, biases, routing weights, "
     "fc2",
     {"transposed gradient", "A27", "A46"},
     arrange_adjoint,
     linear_adjoint,
     Passes::backward},
};

}  // namespace

std::span<const Property> gradient_difference_properties() { return kGradientDifferenceProperties; }

}  // namespace moeref
