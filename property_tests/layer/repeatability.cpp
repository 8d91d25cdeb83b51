// Every component: the same call twice, and the same values in wider and narrower types.
#include <algorithm>
#include <cmath>
#include <optional>

#include "moeref/component.hpp"
#include "moeref/verdict.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void rerun(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call), b(impl, call);
  for (const auto& [name, tensor] : a.results())
    if (!(tensor == b[name])) expect_identical(b, a, name, "the same call again");
}

/// A call in fp32 or 16 bits against the same numbers in fp64, on the narrow call's own routing.
void dtype_ladder(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer own(impl, call), wide(impl, replaying(in_dtype(call, DType::float64), own));
  // Replayed slots may come back in another order: then both are replays.
  std::optional<Answer> again;
  if (own.has("outputs/indices") && !(own["outputs/indices"] == wide["outputs/indices"]))
    again.emplace(impl, replaying(call, own));
  const Answer& narrow = again ? *again : own;
  for (const auto& [name, tensor] : narrow.results()) {
    if (name.starts_with("stages/") || !is_floating(tensor.dtype())) continue;
    expect_same(narrow, wide, name, "the same numbers in float64");
  }
}

void arrange_narrow(Descriptor& d) {
  d.noise = 0.0;
  if (d.dtype == DType::float64) d.dtype = d.seed % 2 == 0 ? DType::bfloat16 : DType::float16;
}

void expect_within_bounds(const Answer& answer, std::string_view rung) {
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;  // ties and coarse logits are drawn on purpose
  const CaseVerdict verdict = judge(answer.call(), answer.results(), options);
  if (const TensorVerdict* t = verdict.first_failure())
    fail({t->tensor, t->index, t->value, t->reference, t->bound,
          "in " + std::string(rung) + ", r > 1: " + t->finding});
}

/// r = |value - reference| / bound on every rung that the implementation has, each on its own numbers.
void within_bounds(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, facts(d.component).has_backward);
  std::string declined;
  bool judged = false;
  for (const DType rung : {DType::float64, DType::float32, DType::bfloat16, DType::float16}) {
    try {
      expect_within_bounds(Answer(impl, as_offered(impl, in_dtype(call, rung))), name(rung));
      judged = true;
    } catch (const NotSupported& reason) {
      if (declined.empty()) declined = reason.what();
    }
  }
  if (!judged) throw NotSupported(declined);
}

void arrange_any(Descriptor& d) {
  // A balanced gate's noise is seeded by x's mean in the dtype at hand, and compared exactly.
  d.noise = 0.0;
}

/// Elements whose exact value no fp32 number is: something computed in fp32 or less cannot hit them all.
void rounding_shows(Implementation& impl, const Descriptor& d) {
  const Answer answer(impl, make_call(d));
  std::int64_t rough = 0, hit = 0;
  const char* output = answer.has("outputs/y") ? "outputs/y" : "outputs/weights";
  const BoundedTensor& exact = answer.reference().results.at(output);
  for (std::size_t i = 0; i < exact.value.size(); ++i) {
    const double value = exact.value[i];
    if (exact.bound[i] == 0.0f || static_cast<double>(static_cast<float>(value)) == value) continue;
    ++rough;
    hit += answer.at(output, static_cast<std::int64_t>(i)) == value;
  }
  if (rough < 8) throw Discarded("too few values that no fp32 number is");
  if (hit == rough)
    fail({output, -1, static_cast<double>(hit), 0.0, 0.0,
          "r = 0 on rough data: no arithmetic in " + std::string(name(d.dtype)) +
              " gives these bits of fp64. Does it call the reference?"});
}

void arrange_rough(Descriptor& d) {
  arrange_replayed_routing(d);
  d.replay = d.component == Component::moe || d.component == Component::gate;
  arrange_narrow(d);
  d.precision.reset();
  d.values = Values::rough;
  d.logits = Logits::rough;
  d.mask = Mask::absent;
  // Enough slots with weights that are no ones, enough rows that are no zeros.
  d.E = std::max<std::int64_t>(d.E, 4);
  d.k = std::clamp<std::int64_t>(d.k, 2, 8);
  d.T = std::max<std::int64_t>(d.T, 8);
  d.D = std::max<std::int64_t>(d.D, 6);
  d.I = std::max<std::int64_t>(d.I, 4);
  if (d.ids == Ids::absent_slots) d.ids = Ids::distinct;
}

const Property kRepeatabilityProperties[] = {
    {"P56",
     "rerun",
     {Component::gate, Component::aux_loss, Component::bias_update, Component::fake_balanced_gate,
      Component::mlp, Component::experts, Component::moe, Component::init, Component::metrics},
     PropertyClass::exact,
     "the same call gives the same bits",
     {"O36", "race", "uninitialised memory"},
     nullptr,
     rerun,
     Passes::either,
     Needs::repeatable},
    {"P57",
     "dtype_ladder",
     {Component::gate, Component::aux_loss, Component::mlp, Component::experts, Component::moe},
     PropertyClass::bounded,
     "fp32, bf16 and fp16 stay within their bounds of the same numbers in fp64",
     {"A9", "A28", "A46", "M4", "M29", "O11", "accumulation in 16 bits"},
     arrange_narrow,
     dtype_ladder,
     Passes::either},
    {"P57",
     "within_bounds",
     {Component::gate, Component::aux_loss, Component::bias_update, Component::mlp, Component::experts,
      Component::moe, Component::metrics},
     PropertyClass::bounded,
     "the error is at most its bound, r <= 1, in every precision that it has: fp64, fp32, bf16 and fp16",
     {"A9", "A28", "A39", "A46", "O11"},
     arrange_any,
     within_bounds,
     Passes::either,
     Needs::nothing,
     true},
    {"P57",
     "rounding_shows",
     {Component::gate, Component::mlp, Component::experts, Component::moe},
     PropertyClass::bounded,
     "no error at all in a narrow type on rough data is no honest result",
     {"a port that calls the reference"},
     arrange_rough,
     rounding_shows,
     Passes::forward,
     Needs::rounding},
};

}  // namespace

std::span<const Property> repeatability_properties() { return kRepeatabilityProperties; }

}  // namespace moeref
