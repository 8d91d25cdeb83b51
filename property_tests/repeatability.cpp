// Every component: the same call twice, and the same values in a wider type.
#include <cmath>

#include "layer_calls.hpp"
#include "property_tables.hpp"

namespace moeref {
namespace {

constexpr auto kBackward = [](Component c) {
  return c == Component::gate || c == Component::aux_loss || c == Component::mlp || c == Component::experts ||
         c == Component::moe;
};

void rerun(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, kBackward(d.component));
  const Answer a(impl, call), b(impl, call);
  for (const auto& [name, tensor] : a.results())
    if (!(tensor == b[name])) expect_identical(b, a, name, "the same call again");
}

/// A call in fp32 or 16 bits against the same numbers in fp64, on the narrow call's own routing.
void dtype_ladder(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  const Answer narrow(impl, call);
  const Answer wide(impl, replaying(in_dtype(call, DType::float64), narrow));
  for (const auto& [name, tensor] : narrow.results()) {
    if (name.starts_with("stages/") || !is_floating(tensor.dtype())) continue;
    expect_same(narrow, wide, name, "the same numbers in float64");
  }
}

void arrange_narrow(Descriptor& d) {
  d.noise = 0.0;
  if (d.dtype == DType::float64) d.dtype = d.seed % 2 == 0 ? DType::bfloat16 : DType::float16;
}

const Property kTable[] = {
    {"P56",
     "rerun",
     {Component::gate, Component::aux_loss, Component::bias_update, Component::fake_balanced_gate,
      Component::mlp, Component::experts, Component::moe, Component::init, Component::metrics},
     PropertyClass::exact,
     "the same call gives the same bits",
     {"O36", "race", "uninitialised memory"},
     nullptr,
     rerun},
    {"P57",
     "dtype_ladder",
     {Component::gate, Component::aux_loss, Component::mlp, Component::experts, Component::moe},
     PropertyClass::bounded,
     "fp32, bf16 and fp16 stay within their bounds of the same numbers in fp64",
     {"A9", "A28", "A46", "M4", "M29", "O11", "accumulation in 16 bits"},
     arrange_narrow,
     dtype_ladder},
};

}  // namespace

std::span<const Property> repeatability_properties() { return kTable; }

}  // namespace moeref
