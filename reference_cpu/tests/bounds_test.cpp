// The reference's bounds, judged by an independent honest implementation: whatever the call, the order of
// sums and the roundings of an eager framework or of fused kernels, it must pass, and the bounds must say
// something.
//
// MOEREF_BOUNDS_CALLS sets the number of calls a component and type (60 unless told); MOEREF_BOUNDS_FIRST the
// first seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <tuple>

#include "moeref/config.hpp"
#include "moeref/reference.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref {
namespace {

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

const std::vector<eager::PortOptions>& ports() {
  using enum eager::Order;
  static const std::vector<eager::PortOptions> all{{false, forward, false},
                                                   {false, backward, true},
                                                   {false, pairwise, false},
                                                   {true, forward, false},
                                                   {true, pairwise, true}};
  return all;
}

constexpr std::array<Component, 6> kJudged{Component::gate, Component::aux_loss, Component::bias_update,
                                           Component::mlp,  Component::experts,  Component::moe};
constexpr std::array<DType, 4> kTypes{DType::float64, DType::float32, DType::bfloat16, DType::float16};

struct Largest {
  double eager = 0.0, fused = 0.0;
  std::string where;
};

class Bounds : public testing::TestWithParam<std::tuple<Component, DType>> {};

TEST_P(Bounds, HoldForHonestPorts) {
  const auto [component, dtype] = GetParam();
  const std::uint64_t first = environment("MOEREF_BOUNDS_FIRST", 0),
                      calls = environment("MOEREF_BOUNDS_CALLS", 60);
  std::map<std::string, Largest> largest;
  for (std::uint64_t seed = first; seed < first + calls; ++seed) {
    const Call call = random_call(component, dtype, seed);
    const eager::PortOptions options = ports()[seed % ports().size()];
    eager::EagerPort port(options);
    const NamedTensors result = port.run(call);
    JudgeOptions judging;
    judging.ambiguity_ceiling = 1.0;  // adversarial logits in coarse types are ambiguous by construction
    const CaseVerdict verdict = judge(call, result, judging);
    for (const TensorVerdict& t : verdict.tensors) {
      Largest& l = largest[t.tensor];
      (options.fused ? l.fused : l.eager) = std::max(options.fused ? l.fused : l.eager, t.ratio);
    }
    if (const TensorVerdict* failure = verdict.first_failure())
      ADD_FAILURE() << "seed " << seed << " " << port.name() << " order " << static_cast<int>(options.order)
                    << (options.weights_in_float ? " weights in float" : "") << ": " << failure->tensor << " "
                    << failure->finding << ", r " << failure->ratio << ", value " << failure->value
                    << ", reference " << failure->reference << ", bound " << failure->bound << ", at "
                    << failure->index << "\n  " << describe(call).substr(0, 1500);
  }
  if (std::getenv("MOEREF_BOUNDS_TABLE"))
    for (const auto& [tensor, l] : largest)
      std::cout << "| " << name(component) << " | " << name(dtype) << " | " << tensor << " | " << l.eager
                << " | " << l.fused << " |\n";
}

/// A gate's bias beyond float16 makes logits infinite. Of a discarded group they are multiplied by 0.
TEST(BoundsTest, InfiniteLogitsOfDiscardedGroups) {
  const Call call = random_call(Component::bias_update, DType::float16, 7229);
  ASSERT_TRUE(parse_moe_config(call.config).discards_to_zero());
  for (const eager::PortOptions& options : ports()) {
    JudgeOptions judging;
    judging.ambiguity_ceiling = 1.0;
    EXPECT_NE(judge(call, eager::EagerPort(options).run(call), judging).verdict, Verdict::fail);
  }
}

/// That of the layer's type or of a coarser one that its gate or its experts compute in; float64 layers hold
/// routing weights and sums in fp32.
double unit_of(const Call& call, DType dtype) {
  const auto gate = parse_call_options(call.options).gate_precision;
  const auto experts =
      has_routed_experts(call.component) ? parse_moe_config(call.config).expert_compute_dtype : std::nullopt;
  return std::max({unit_roundoff(dtype), 0x1p-24, gate ? unit_roundoff(*gate) : 0.0,
                   experts ? unit_roundoff(*experts) : 0.0});
}

/// The median of some numbers, 0 of none.
double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

/// What an honest port's errors and the bounds are on numbers of order one: a bound far above either would
/// pass anything.
TEST_P(Bounds, SayMuchAboutOrdinaryNumbers) {
  const auto [component, dtype] = GetParam();
  if (component == Component::bias_update) return;  // ids, counts and a few additions: nothing has a median
  struct Tightness {
    std::vector<double> units;  ///< bound / largest |reference| of its tensor, over the call's unit
    double ratio = 0.0;
  };
  std::map<std::string, Tightness> tensors;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Call call = random_call(component, dtype, seed, Numbers::ordinary);
    const NamedTensors result = eager::EagerPort(ports()[seed % 3]).run(call);
    const Evaluation e = evaluate(call, result.contains("outputs/indices")
                                            ? NamedTensors{{"outputs/indices", result.at("outputs/indices")}}
                                            : NamedTensors{});
    for (const auto& [name, reference] : e.results) {
      double largest = 0.0;
      for (const double v : reference.value) largest = std::max(largest, std::abs(v));
      if (largest == 0.0 || !is_floating(reference.dtype)) continue;
      Tightness& t = tensors[name];
      for (const float bound : reference.bound) {
        ASSERT_TRUE(std::isfinite(bound)) << name << " seed " << seed << "\n  " << describe(call);
        if (bound > 0.0f) t.units.push_back(bound / largest / unit_of(call, dtype));
      }
    }
    JudgeOptions judging;
    judging.ambiguity_ceiling = 1.0;
    for (const TensorVerdict& t : judge(call, result, judging).tensors)
      if (tensors.contains(t.tensor)) tensors[t.tensor].ratio = std::max(tensors[t.tensor].ratio, t.ratio);
  }
  // Some hundreds of roundings, since each of a few stages adds up its terms', whatever the type. The port
  // does not expose stages.
  for (const auto& [name, t] : tensors) {
    if (std::getenv("MOEREF_BOUNDS_TABLE"))
      std::cout << "| " << moeref::name(component) << " | " << moeref::name(dtype) << " | " << name
                << " | median bound / u " << median(t.units) << " | r " << t.ratio << " |\n";
    EXPECT_LT(median(t.units), 500.0) << name;
    if (dtype != DType::float64 && !name.starts_with("stages/")) {
      EXPECT_GT(t.ratio, 0.02) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Bounds, testing::Combine(testing::ValuesIn(kJudged), testing::ValuesIn(kTypes)),
                         [](const auto& info) {
                           return std::string(name(std::get<0>(info.param))) + "_" +
                                  std::string(name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace moeref
