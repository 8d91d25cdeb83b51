// Every mutant that passed the suite once is found by its property; wrong gradients also where the port has
// one precision alone.
//
// MOEREF_HONEST_CASES sets the number of cases per property of sound ports (8 unless told),
// MOEREF_HONEST_SEED the seed.
#include "property_tests/mutants/tables.hpp"

#include <gtest/gtest.h>

#include <cstdio>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "property_tests/suite/tests/environment.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref {
namespace {

class OneThread : public testing::Test {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

/// The eager port in one precision alone, as kernels are.
class OnePrecision final : public Implementation {
 public:
  explicit OnePrecision(DType dtype) : dtype_(dtype), port_({true, eager::Order::pairwise, false}) {}
  std::string name() const override { return std::string(moeref::name(dtype_)); }
  std::optional<std::string> unsupported(const Call& call) const override {
    const bool mlp = call.component == Component::mlp;
    const DType asked = mlp ? parse_mlp_config(call.config).dtype : parse_moe_config(call.config).dtype;
    if (asked != dtype_) return "another precision";
    if (!mlp && parse_call_options(call.options).fake_balanced_gate) return "it has no balanced gate";
    return port_.unsupported(call);
  }
  NamedTensors run(const Call& call) override { return port_.run(call); }

 private:
  DType dtype_;
  eager::EagerPort port_;
};

RunOptions of(const Mutant& mutant, int cases) {
  RunOptions options;
  options.cases = cases;
  options.seed = 7;
  options.components = mutant.components;
  options.declared = {.lowest_id_first = true, .repeatable = true};
  return options;
}

std::string test_name(const testing::TestParamInfo<const Mutant*>& info) {
  return std::string(info.param->name);
}

std::vector<const Mutant*> all() {
  std::vector<const Mutant*> out;
  for (const Mutant& mutant : holes_mutants()) out.push_back(&mutant);
  return out;
}

/// Backward passes that lack one term, each with a component that shows it.
struct LostTerm {
  const char* mutant;
  Component component;
};

constexpr LostTerm kLostTerms[] = {{"silu_slope_is_sigmoid", Component::mlp},
                                   {"silu_slope_is_sigmoid", Component::experts},
                                   {"softmax_gradient_without_sum", Component::gate},
                                   {"renormalisation_gradient_dropped", Component::gate}};

class Holes : public OneThread, public testing::WithParamInterface<const Mutant*> {};

TEST_P(Holes, AreClosedByTheirProperty) {
  const Mutant& mutant = *GetParam();
  const Property* property = find_property(mutant.property);
  ASSERT_NE(property, nullptr) << mutant.property;
  CpuReference sound;
  const auto port = with_mutation(mutant, sound);
  const RunReport report = run_property(*property, *port, of(mutant, 300));
  ASSERT_EQ(report.status, RunStatus::failed)
      << report.passed << " passed, " << report.discarded << " discarded";
  const std::string line = to_line(*report.smallest);
  const Outcome honest = repeat_case(*property, sound, line);
  EXPECT_EQ(honest.kind, Outcome::Kind::passed) << line << ": " << honest.reason << to_string(honest.finding);
  std::printf("%s\n  %s\n", line.c_str(), to_string(report.finding).c_str());
  if (mutant.first_wrong.empty() || report.finding.tensor.empty()) return;
  const std::string words = " " + std::string(mutant.first_wrong) + " ";
  EXPECT_NE(words.find(" " + report.finding.tensor + " "), std::string::npos) << report.finding.tensor;
}

INSTANTIATE_TEST_SUITE_P(All, Holes, testing::ValuesIn(all()), test_name);

class NarrowGradients : public OneThread, public testing::WithParamInterface<LostTerm> {
 protected:
  RunReport report(const char* property, Implementation& sound) const {
    const Mutant& mutant = *find_mutant(GetParam().mutant);
    RunOptions options = of(mutant, 150);
    options.components = {GetParam().component};
    const auto port = with_mutation(mutant, sound);
    return run_property(*find_property(property), *port, options);
  }
};

TEST_P(NarrowGradients, AreJudgedInTheOnePrecisionThatAPortHas) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    OnePrecision sound(dtype);
    const RunReport ran = report("within_bounds", sound);
    EXPECT_EQ(ran.status, RunStatus::failed) << name(dtype) << " " << ran.passed << " passed";
    EXPECT_TRUE(ran.finding.tensor.starts_with("grads/")) << ran.finding.tensor;
  }
}

/// Without the reference's gradients: its own forward pass is enough in float32.
TEST_P(NarrowGradients, OfFloat32DifferFromDifferences) {
  OnePrecision sound(DType::float32);
  const RunReport ran = report("central_differences", sound);
  EXPECT_EQ(ran.status, RunStatus::failed) << ran.passed << " passed " << ran.discarded << " discarded";
}

INSTANTIATE_TEST_SUITE_P(All, NarrowGradients, testing::ValuesIn(kLostTerms), [](const auto& info) {
  return std::string(info.param.mutant) + "_in_" + std::string(name(info.param.component));
});

/// Those that judge gradients say something of a sound port in one precision, and nothing false.
TEST_F(OneThread, NarrowPortsPassWhatJudgesTheirGradients) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (const char* name : {"within_bounds", "central_differences", "linear_adjoint"})
      for (const Component component : find_property(name)->components) {
        if (component == Component::metrics) continue;
        OnePrecision sound(dtype);
        if (std::string_view(name) == "linear_adjoint" && dtype == DType::float16) continue;
        RunOptions options;
        options.cases = static_cast<int>(environment("MOEREF_HONEST_CASES", 8));
        options.seed = environment("MOEREF_HONEST_SEED", 5);
        options.components = {component};
        const RunReport report = run_property(*find_property(name), sound, options);
        EXPECT_EQ(report.status, RunStatus::passed)
            << moeref::name(dtype) << " " << moeref::name(component) << " " << name << ": " << report.passed
            << " passed, " << report.discarded << " discarded " << to_string(report.finding) << " "
            << repeat_line(report);
        std::printf("%s %s %s: %d passed, %d discarded, %d not supported\n", moeref::name(dtype).data(),
                    moeref::name(component).data(), name, report.passed, report.discarded,
                    report.not_supported);
      }
}

}  // namespace
}  // namespace moeref
