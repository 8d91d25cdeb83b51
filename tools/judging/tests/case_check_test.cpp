// What judging a golden file costs, and what it says of improbable errors.
#include "tools/judging/case_check.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

namespace moeref {
namespace {

namespace fs = std::filesystem;

TEST(CaseCheckTest, AGoldenThatPassesCostsOneEvaluation) {
  const auto port = open_port("cpu", {});
  CaseChecker checker{*port, {}};
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(MOEREF_GOLDEN) / "cases")) {
    if (entry.path().extension() != ".h5") continue;
    const CaseChecker::Checked checked = checker.check(entry.path());
    EXPECT_LT(checked.report.verdict, Verdict::fail) << entry.path();
    EXPECT_EQ(checked.evaluations, 1) << entry.path();
    if (++cases == 40) break;
  }
  EXPECT_EQ(cases, 40);
}

/// An MLP of one column whose y a port summed over 4096 terms and then moved by `share` of its bound.
fs::path moved_mlp(double share) {
  constexpr std::int64_t kTerms = 4096;
  GoldenFile golden;
  golden.call.component = Component::mlp;
  golden.call.config = {{"dim", 1}, {"inter_dim", kTerms}, {"dtype", "float32"}, {"activation", "relu2"}};
  golden.call.options = nlohmann::json::object();
  golden.case_name = "moved";
  golden.producer = "another program";
  Tensor x(DType::float32, {1, 1}), up(DType::float32, {kTerms, 1}), down(DType::float32, {1, kTerms});
  x.set(0, 1.0);
  std::mt19937 bits(3);
  for (std::int64_t i = 0; i < kTerms; ++i) {
    up.set(i, 1.0);
    down.set(i, 0.5 + static_cast<double>(bits()) / 4294967296.0);
  }
  golden.call.tensors = {{"inputs/x", x}, {"params/up_proj.weight", up}, {"params/down_proj.weight", down}};
  Evaluation evaluation = evaluate(golden.call);
  BoundedTensor& y = evaluation.results.at("outputs/y");
  y.value[0] += share * y.bound[0];
  const fs::path file = fs::path(MOEREF_BUILD) / ("case_check_" + std::to_string(share) + ".h5");
  write_golden(file, golden, evaluation);
  return file;
}

TEST(CaseCheckTest, ErrorsThatRoundingHardlyMakesAreWarnedOf) {
  const auto port = open_port("cpu", {});
  CaseChecker checker{*port, {}};
  const auto improbable = checker.check(moved_mlp(0.5));
  EXPECT_EQ(improbable.report.verdict, Verdict::pass);
  ASSERT_EQ(improbable.report.warnings.size(), 1u);
  EXPECT_EQ(improbable.report.warnings[0],
            "recorded outputs/y is within the bound but 32 times what rounding errors probably make");
  const auto honest = checker.check(moved_mlp(0.01));
  EXPECT_EQ(honest.report.verdict, Verdict::pass);
  EXPECT_TRUE(honest.report.warnings.empty());
}

}  // namespace
}  // namespace moeref
