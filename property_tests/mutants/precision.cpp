// Right formulas in too little precision.
#include <algorithm>
#include <cmath>
#include <string>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// Toward zero: the largest number of the type that is not larger.
double truncated(DType type, double v) {
  const double rounded = round_to(type, v);
  if (!std::isfinite(rounded) || std::abs(rounded) <= std::abs(v)) return rounded;
  return round_to(type, rounded * (1.0 - unit_roundoff(type)) * (1.0 - 0.5 * unit_roundoff(type)));
}

/// Floating outputs and gradients of a call in that type, changed.
template <typename F>
NamedTensors with_values(Implementation& sound, const Call& call, DType type, F&& f) {
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::gate, C::experts, C::mlp, C::moe}) || dtype_of(call) != type) return out;
  for (auto& [name, tensor] : out)
    if (is_floating(tensor.dtype()) && name != "outputs/aux_loss" && !name.starts_with("stages/") &&
        !(name == "outputs/weights" && call.config.value("router_weights_fp32", false)))
      change(out, name, [&](std::int64_t, double v) { return f(v); });
  return out;
}

NamedTensors bfloat16_truncated(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::bfloat16, [](double v) { return truncated(DType::bfloat16, v); });
}
NamedTensors float16_truncated(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::float16, [](double v) { return truncated(DType::float16, v); });
}
/// Seven bits more than a half are rounded up before the eighth is looked at.
NamedTensors bfloat16_rounded_twice(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::bfloat16, [](double v) {
    if (v == 0.0 || !std::isfinite(v)) return v;
    int exponent = 0;
    std::frexp(v, &exponent);
    const double unit = std::ldexp(1.0, exponent - 10);  // two bits below those of bfloat16
    return round_to(DType::bfloat16, std::nearbyint(v / unit) * unit * (1.0 + std::copysign(0x1p-20, 1.0)));
  });
}
NamedTensors float32_results_in_bfloat16(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::float32, [](double v) { return round_to(DType::bfloat16, v); });
}
NamedTensors float32_results_in_float16(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::float32, [](double v) { return round_to(DType::float16, v); });
}
NamedTensors float64_results_in_float32(Implementation& sound, const Call& call) {
  return with_values(sound, call, DType::float64, [](double v) { return round_to(DType::float32, v); });
}

/// 10 bits of every number that enters a product, as tf32 has them.
double in_tf32(double v) {
  if (v == 0.0 || !std::isfinite(v)) return v;
  int exponent = 0;
  std::frexp(v, &exponent);
  const double unit = std::ldexp(1.0, exponent - 11);
  return std::nearbyint(v / unit) * unit;
}
NamedTensors products_in_tf32(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::experts, C::mlp, C::moe}) || dtype_of(call) != DType::float32)
    return sound.run(call);
  Call other = call;
  for (const auto& [name, tensor] : call.tensors)
    if (name.find("proj") != std::string::npos)
      map_input(other, name, [](std::int64_t, double v) { return in_tf32(v); });
  return with_results_of(sound, call, other, "outputs/y");
}
NamedTensors logits_in_tf32(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || dtype_of(call) != DType::float32) return sound.run(call);
  Call other = call;
  for (const char* name : {"inputs/x", "params/weight"})
    map_input(other, name, [](std::int64_t, double v) { return in_tf32(v); });
  return with_results_of(sound, call, other, "outputs/");
}

template <DType Sum>
NamedTensors products_summed_in(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::experts, C::mlp})) return sound.run(call);
  ExpertsParts parts;
  parts.add = [](DType type, double sum, double product) {
    return type == DType::float64 ? sum + product : round_to(Sum, sum + product);
  };
  Call forward = call;
  forward.backward = false;
  NamedTensors out = sound.run(call);
  add_difference(out, plain_experts(forward, parts), plain_experts(forward, {}), {"outputs/y"});
  return out;
}

NamedTensors logits_summed_in_bfloat16(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || dtype_of(call) == DType::float64 || facts(score_of(call)).selects_by_logits)
    return sound.run(call);
  const Matrix x = matrix_of(call.tensors.at("inputs/x")), w = matrix_of(call.tensors.at("params/weight"));
  Call other = call;
  other.tensors.erase("params/bias");
  other = with_config(other, {{"router_bias", false}, {"dim", w.rows}});
  Tensor z(DType::float64, {x.rows, w.rows}), one(DType::float64, {w.rows, w.rows});
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t e = 0; e < w.rows; ++e) {
      double sum = call.tensors.contains("params/bias") ? call.tensors.at("params/bias")[e] : 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i)
        sum = round_to(DType::bfloat16, sum + x.at(t, i) * w.at(e, i));
      z.set(t * w.rows + e, sum);
    }
  for (std::int64_t e = 0; e < w.rows; ++e) one.set(e * w.rows + e, 1.0);
  other.tensors["inputs/x"] = z;
  other.tensors["params/weight"] = one;
  other.backward = false;
  other.tensors.erase("cotangents/weights");
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : sound.run(other))
    if (name.starts_with("outputs/")) out[name] = tensor;
  return out;
}

/// A table of 64 straight pieces over [-8, 8].
double sigmoid_of_table(double z) {
  const double at = std::clamp(z, -8.0, 8.0) * 4.0, low = std::floor(at), part = at - low;
  return (1.0 - part) * plain_sigmoid(low / 4.0) + part * plain_sigmoid((low + 1.0) / 4.0);
}
NamedTensors sigmoid_from_table(Implementation& sound, const Call& call) {
  if (is(call, C::gate)) {
    const ScoreFunc score = score_of(call);
    if (score != ScoreFunc::sigmoid && score != ScoreFunc::sigmoid_with_bias) return sound.run(call);
    const bool corrected = call.config.value("router_weight_uses_score_correction_bias", false);
    return corrected ? sound.run(call)
                     : with_weights_of(sound, call, mapped(logits_of(call), sigmoid_of_table));
  }
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    if (c.expert_activation != ActivationKind::swiglu || std::abs(g) < 1e-9) return activation_value(c, g, u);
    const double limit = c.swiglu_limit > 0.0 ? c.swiglu_limit : INFINITY, gate = std::min(g, limit);
    return gate * sigmoid_of_table(gate) * std::clamp(u, -limit, limit);
  };
  return with_parts(sound, call, parts);
}

double fast_exp(double v) { return std::exp(v) * (1.0 + 0x1p-12 * std::sin(40.0 * v)); }
NamedTensors exponential_of_12_bits(Implementation& sound, const Call& call) {
  if (is(call, C::gate)) {
    if (!facts(score_of(call)).selects_by_logits) return sound.run(call);
    const Matrix z = logits_of(call);
    Matrix s = z;
    for (std::int64_t t = 0; t < z.rows; ++t) {
      double top = -INFINITY, sum = 0.0;
      for (std::int64_t e = 0; e < z.cols; ++e) top = std::max(top, z.at(t, e));
      for (std::int64_t e = 0; e < z.cols; ++e) sum += s.at(t, e) = fast_exp(z.at(t, e) - top);
      for (std::int64_t e = 0; e < z.cols; ++e) s.at(t, e) /= sum;
    }
    return with_weights_of(sound, call, s);
  }
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    if (c.expert_activation != ActivationKind::swiglu) return activation_value(c, g, u);
    const double limit = c.swiglu_limit > 0.0 ? c.swiglu_limit : INFINITY, gate = std::min(g, limit);
    return gate / (1.0 + fast_exp(-gate)) * std::clamp(u, -limit, limit);
  };
  return with_parts(sound, call, parts);
}

NamedTensors weights_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::gate) && call.config.value("router_weights_fp32", false) &&
      dtype_of(call) == DType::bfloat16)
    change(out, "outputs/weights", [](std::int64_t, double w) { return round_to(DType::bfloat16, w); });
  return out;
}

NamedTensors small_values_flushed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (gives_y(call))
    change(out, "outputs/y", [](std::int64_t, double v) { return std::abs(v) < 1e-6 ? 0.0 : v; });
  return out;
}

constexpr std::string_view kFirst =
    "outputs/weights outputs/y grads/bias grads/weight grads/weights grads/x grads/down_proj_bias "
    "grads/down_projs "
    "grads/down_proj.bias grads/down_proj.weight";
const std::vector<Component> kFour{C::gate, C::experts, C::mlp, C::moe};

const Mutant kPrecisionMutants[] = {
    {"bfloat16_truncated", "", "", kFour, "results are cut to bfloat16 in place of rounded", "P", kFirst,
     "within_bounds", bfloat16_truncated},
    {"float16_truncated", "", "", kFour, "results are cut to float16 in place of rounded", "P", kFirst,
     "dtype_ladder", float16_truncated},
    {"bfloat16_rounded_twice", "", "", kFour, "results are rounded to 10 bits and then to bfloat16", "P",
     kFirst, "within_bounds", bfloat16_rounded_twice},
    {"float32_results_in_bfloat16", "", "", kFour, "results of float32 went through bfloat16", "P", kFirst,
     "within_bounds", float32_results_in_bfloat16},
    {"float32_results_in_float16", "", "", kFour, "results of float32 went through float16", "P", kFirst,
     "within_bounds", float32_results_in_float16},
    {"float64_results_in_float32", "", "", kFour, "results of float64 went through float32", "P", kFirst,
     "within_bounds", float64_results_in_float32},
    {"products_in_tf32",
     "",
     "",
     {C::experts, C::mlp, C::moe},
     "operands of float32 products are cut to tf32",
     "P",
     "outputs/y",
     "within_bounds",
     products_in_tf32},
    {"logits_in_tf32",
     "",
     "",
     {C::gate},
     "operands of float32 logits are cut to tf32",
     "P",
     "outputs/indices outputs/weights",
     "within_bounds",
     logits_in_tf32},
    {"products_summed_in_bfloat16", "", "", kMlps, "products are added up in bfloat16", "P", "outputs/y",
     "within_bounds", products_summed_in<DType::bfloat16>},
    {"products_summed_in_float16", "", "", kMlps, "products are added up in float16", "P", "outputs/y",
     "within_bounds", products_summed_in<DType::float16>},
    {"logits_summed_in_bfloat16",
     "",
     "",
     {C::gate},
     "logits are added up in bfloat16",
     "P",
     "outputs/indices outputs/weights grads/weight",
     "within_bounds",
     logits_summed_in_bfloat16},
    {"sigmoid_from_table",
     "",
     "",
     {C::gate, C::experts, C::mlp},
     "sigmoids come from a table of 64 straight pieces",
     "F P",
     "outputs/weights outputs/y grads/weights grads/down_projs",
     "within_bounds",
     sigmoid_from_table},
    {"exponential_of_12_bits",
     "",
     "",
     {C::gate, C::experts, C::mlp},
     "the exponential function errs by 2^-12",
     "P",
     "outputs/weights outputs/y grads/weights grads/down_projs",
     "within_bounds",
     exponential_of_12_bits},
    {"weights_in_bfloat16",
     "",
     "",
     {C::gate},
     "weights that shall be float32 went through bfloat16",
     "P",
     "outputs/weights",
     "within_bounds",
     weights_in_bfloat16},
    {"small_values_flushed",
     "",
     "a test with a tolerance of 1e-6",
     {C::experts, C::mlp, C::moe},
     "outputs below 1e-6 are 0",
     "P",
     "outputs/y",
     "within_bounds",
     small_values_flushed},
};

}  // namespace

std::span<const Mutant> precision_mutants() { return kPrecisionMutants; }

}  // namespace moeref
