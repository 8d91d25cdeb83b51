// Ports whose experts round their operands to the compute type (SPEC 10) wrongly.
#include <bit>
#include <cmath>
#include <string_view>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"

namespace moeref {
namespace {

constexpr const char* kComputeDtype = "expert_compute_dtype";
constexpr std::string_view kNoCoarserType = "a layer of bfloat16 holds the numbers of no coarser type";

bool has_compute_dtype(const Call& call) {
  return is(call, Component::experts) && !call.config.value(kComputeDtype, nlohmann::json()).is_null();
}

/// The call in the layer's own type, with the operands that `rounds` names rounded beforehand.
template <bool (*Rounds)(std::string_view name)>
NamedTensors rounds_alone(Implementation& sound, const Call& call) {
  if (!has_compute_dtype(call)) return sound.run(call);
  const DType compute = *parse_moe_config(call.config).expert_compute_dtype;
  Call other = call;
  other.config.erase(kComputeDtype);
  for (auto& [name, tensor] : other.tensors)
    if (Rounds(name)) tensor = tensor.cast(compute).cast(tensor.dtype());
  return sound.run(other);
}

bool rounds_nothing(std::string_view) { return false; }
bool rounds_tokens(std::string_view name) { return name == "inputs/x"; }
bool rounds_parameters(std::string_view name) { return name.starts_with("params/"); }
bool rounds_all_but_biases(std::string_view name) { return rounds_tokens(name) || name.ends_with("projs"); }

/// Operands lose the bits that the compute type does not hold.
NamedTensors compute_dtype_truncates(Implementation& sound, const Call& call) {
  if (!has_compute_dtype(call)) return sound.run(call);
  const double unit = 2.0 * unit_roundoff(*parse_moe_config(call.config).expert_compute_dtype);
  Call other = call;
  for (auto& [name, tensor] : other.tensors) {
    if (!rounds_tokens(name) && !rounds_parameters(name)) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const double value = tensor[i];
      if (value == 0.0 || !std::isfinite(value)) continue;
      const double place = std::ldexp(unit, std::ilogb(value));
      tensor.set(i, std::trunc(value / place) * place);
    }
  }
  return sound.run(other);
}

/// bfloat16 for float16, and the other way round.
NamedTensors other_compute_dtype(Implementation& sound, const Call& call) {
  if (!has_compute_dtype(call)) return sound.run(call);
  Call other = call;
  other.config[kComputeDtype] = call.config.at(kComputeDtype) == "bfloat16" ? "float16" : "bfloat16";
  return sound.run(other);
}

NamedTensors no_gradient_through_rounding(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (has_compute_dtype(call)) change(out, "grads/x", [](std::int64_t, double) { return 0.0; });
  return out;
}

}  // namespace

std::span<const Mutant> compute_dtype_mutants() {
  const auto row = [](std::string_view name, std::string_view does,
                      NamedTensors (*run)(Implementation&, const Call&)) {
    return Mutant{.name = name,
                  .source = "torchtitan 0.3 rounds tokens and weights to bfloat16",
                  .components = {Component::experts},
                  .does = does,
                  .first_wrong = "stages/up_projection stages/down_projection outputs/y grads/*",
                  .property = "rounded_operands",
                  .run = run,
                  .not_in_bfloat16 = kNoCoarserType};
  };
  static const std::vector<Mutant> kRows{
      row("compute_dtype_ignored", "experts compute in the layer's type", rounds_alone<rounds_nothing>),
      row("compute_dtype_of_tokens_alone", "tokens are rounded to the compute type, parameters are not",
          rounds_alone<rounds_tokens>),
      row("compute_dtype_of_parameters_alone", "parameters are rounded to the compute type, tokens are not",
          rounds_alone<rounds_parameters>),
      row("compute_dtype_not_of_biases", "biases are not rounded to the compute type",
          rounds_alone<rounds_all_but_biases>),
      row("compute_dtype_truncates", "operands are rounded toward zero", compute_dtype_truncates),
      row("compute_dtype_is_another",
          "operands are rounded to bfloat16 for float16, and to float16 for others", other_compute_dtype),
      Mutant{.name = "no_gradient_through_compute_dtype",
             .components = {Component::experts},
             .does = "the rounding of tokens passes no gradient on",
             .first_wrong = "grads/x",
             .property = "gradients_of_rounded",
             .run = no_gradient_through_rounding,
             .not_in_bfloat16 = kNoCoarserType},
  };
  return kRows;
}

}  // namespace moeref
