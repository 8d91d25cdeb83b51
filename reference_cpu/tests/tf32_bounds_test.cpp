// The option float32_products: what an honest port that rounds the operands of its float32 products to TF32
// may do, and that nothing coarser passes under it, nor TF32 without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "moeref/verdict.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref {
namespace {

constexpr int kCalls = 60;
constexpr int kAll = 0, kTf32Bits = 11, kBFloat16Bits = 8;

class Tf32Bounds : public testing::TestWithParam<Component> {
 protected:
  struct Judged {
    int failed = 0;
    double worst = 0.0;  ///< r of what the rounding of operands changed, in calls that did not fail
    std::string finding;
  };

  /// Random float32 calls, under the option where the port `declares` it.
  static Judged judge_calls(int operand_bits, bool declares, Numbers numbers) {
    using enum eager::Order;
    Judged out;
    for (int seed = 0; seed < kCalls; ++seed) {
      Call call = random_call(GetParam(), DType::float32, static_cast<std::uint64_t>(seed), numbers);
      const bool fused = seed % 2 == 1;
      const auto result_with = [&](int bits) {
        return eager::EagerPort({fused, fused ? pairwise : forward, fused, bits}).run(call);
      };
      const NamedTensors result = result_with(operand_bits), plain = result_with(kAll);
      if (declares) call.options["float32_products"] = "tf32";
      JudgeOptions judging;
      judging.ambiguity_ceiling = 1.0;
      const CaseVerdict verdict = judge(call, result, judging);
      const TensorVerdict* failure = verdict.first_failure();
      out.failed += failure != nullptr;
      if (failure)
        out.finding = "seed " + std::to_string(seed) + ": " + failure->tensor + " " + failure->finding +
                      ", r " + std::to_string(failure->ratio) + "\n  " + describe(call).substr(0, 1500);
      for (const TensorVerdict& tensor : verdict.tensors)
        if (!failure && find(result, tensor.tensor) && !(result.at(tensor.tensor) == plain.at(tensor.tensor)))
          out.worst = std::max(out.worst, tensor.ratio);
    }
    std::cout << name(GetParam()) << (declares ? ", declared, " : ", not declared, ") << operand_bits
              << " bits of the operands: " << out.failed << " of " << kCalls
              << " calls fail, worst r of changed results of the others " << out.worst << "\n";
    return out;
  }
};

TEST_P(Tf32Bounds, HoldForPortsThatDeclareIt) {
  for (const Numbers numbers : {Numbers::ordinary, Numbers::adversarial}) {
    const Judged declared = judge_calls(kTf32Bits, true, numbers);
    EXPECT_EQ(declared.failed, 0) << declared.finding;
    EXPECT_LT(declared.worst, 1.0);
    EXPECT_GT(declared.worst, 0.1);  // a bound far above would pass anything
  }
}

TEST_P(Tf32Bounds, AccusePortsThatDoNotDeclareIt) {
  EXPECT_EQ(judge_calls(kAll, false, Numbers::ordinary).failed, 0);
  EXPECT_GT(judge_calls(kTf32Bits, false, Numbers::ordinary).failed, kCalls / 2);
}

TEST_P(Tf32Bounds, AccusePortsThatRoundToBFloat16) {
  EXPECT_GT(judge_calls(kBFloat16Bits, true, Numbers::ordinary).failed, kCalls / 4);
}

INSTANTIATE_TEST_SUITE_P(All, Tf32Bounds,
                         testing::Values(Component::gate, Component::mlp, Component::experts, Component::moe),
                         [](const auto& info) { return std::string(name(info.param)); });

}  // namespace
}  // namespace moeref
