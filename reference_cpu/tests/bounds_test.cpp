// The reference's bounds, judged by an independent honest implementation: whatever the call, the order of sums and the
// roundings of an eager framework or of fused kernels, it must pass, and the bounds must say something.
//
// MOEREF_BOUNDS_CALLS sets the number of calls a component and type (60 unless told); MOEREF_BOUNDS_FIRST the first seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "eager_port.hpp"
#include "moeref/reference.hpp"
#include "moeref/verdict.hpp"
#include "random_call.hpp"

namespace moeref {
namespace {

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

const std::vector<eager::PortOptions>& ports() {
  using enum eager::Order;
  static const std::vector<eager::PortOptions> all{{false, forward, false}, {false, backward, true}, {false, pairwise, false},
                                                   {true, forward, false},  {true, pairwise, true}};
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
  const std::uint64_t first = environment("MOEREF_BOUNDS_FIRST", 0), calls = environment("MOEREF_BOUNDS_CALLS", 60);
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
                    << failure->finding << ", r " << failure->ratio << ", value " << failure->value << ", reference "
                    << failure->reference << ", bound " << failure->bound << ", at " << failure->index << "\n  "
                    << describe(call).substr(0, 1500);
  }
  if (std::getenv("MOEREF_BOUNDS_TABLE"))
    for (const auto& [tensor, l] : largest)
      std::cout << "| " << name(component) << " | " << name(dtype) << " | " << tensor << " | " << l.eager << " | "
                << l.fused << " |\n";
}

INSTANTIATE_TEST_SUITE_P(All, Bounds, testing::Combine(testing::ValuesIn(kJudged), testing::ValuesIn(kTypes)),
                         [](const auto& info) {
                           return std::string(name(std::get<0>(info.param))) + "_" + std::string(name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace moeref
