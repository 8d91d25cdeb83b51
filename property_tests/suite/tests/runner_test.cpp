// The runner itself: what it calls failed, flaky, vacuous and not supported, and which inputs it misses.
#include "moeref/runner.hpp"

#include <gtest/gtest.h>

#include "moeref/error.hpp"
#include "moeref/reference.hpp"
#include "property_tests/suite/answer.hpp"
#include "property_tests/suite/buckets.hpp"

namespace moeref {
namespace {

RunOptions few() {
  RunOptions options;
  options.cases = 60;
  options.seed = 3;
  return options;
}

void needs_three_experts(Implementation&, const Descriptor& d) {
  if (d.E >= 3) fail({"outputs/weights", 2, 1.0, 0.0, 0.5, "three experts or more"});
}

/// A property of the gate that arranges nothing.
Property property_of(std::string_view id, std::string_view name,
                     void (*check)(Implementation&, const Descriptor&)) {
  return {id, name, {Component::gate}, PropertyClass::exact, "", {}, nullptr, check};
}

TEST(Runner, ShrinksToTheSmallestFailure) {
  const Property property = property_of("T1", "needs_three_experts", needs_three_experts);
  CpuReference cpu;
  const RunReport report = run_property(property, cpu, few());
  ASSERT_EQ(report.status, RunStatus::failed);
  EXPECT_EQ(to_line(*report.smallest), "gate T=0 E=3 logits=rough seed=0");
  EXPECT_EQ(report.finding.index, 2);
  EXPECT_EQ(repeat_line(report),
            "--property needs_three_experts --repeat 'gate T=0 E=3 logits=rough seed=0'");
}

TEST(Runner, CallsAFailureThatDoesNotRepeatFlaky) {
  static int calls;
  calls = 0;
  const Property property = property_of("T2", "seventh_call", [](Implementation&, const Descriptor&) {
    if (++calls == 7) fail({"", -1, 0.0, 0.0, 0.0, "the seventh call"});
  });
  CpuReference cpu;
  EXPECT_EQ(run_property(property, cpu, few()).status, RunStatus::flaky);
}

TEST(Runner, CallsAPropertyThatDiscardsEverythingVacuous) {
  const Property property =
      property_of("T3", "discards", [](Implementation&, const Descriptor&) { throw Discarded("never"); });
  CpuReference cpu;
  const RunReport report = run_property(property, cpu, few());
  EXPECT_EQ(report.status, RunStatus::vacuous);
  EXPECT_EQ(report.reasons.at("never"), 60);
}

class Nothing final : public Implementation {
 public:
  std::string name() const override { return "nothing"; }
  std::optional<std::string> unsupported(const Call&) const override { return "nothing is supported"; }
  NamedTensors run(const Call&) override { throw std::logic_error("was called"); }
};

TEST(Runner, CountsWhatIsNotSupportedAndNeverPassesIt) {
  Nothing nothing;
  for (const char* name : {"token_permutation", "gate_loss", "bias_update_state_machine"}) {
    const RunReport report = run_property(*find_property(name), nothing, few());
    EXPECT_EQ(report.status, RunStatus::not_supported) << name;
    EXPECT_EQ(report.passed, 0) << name;
    EXPECT_EQ(report.not_supported, 60) << name;
  }
}

/// Says so only when it is called, as the table of a library may.
class DeclinesLate final : public Implementation {
 public:
  std::string name() const override { return "declines"; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call&) override { throw NotSupported("nothing is supported"); }
};

TEST(Runner, NoPropertyPassesOrFailsAPortThatComputesNothing) {
  Nothing nothing;
  DeclinesLate late;
  RunOptions options = few();
  options.cases = 20;
  options.declared = {.lowest_id_first = true,
                      .repeatable = true,
                      .batch_invariant = true,
                      .rounding = true,
                      .counter_generator = true};
  for (Implementation* port : {static_cast<Implementation*>(&nothing), static_cast<Implementation*>(&late)})
    for (const Property& property : properties()) {
      SCOPED_TRACE(port->name() + " " + std::string(property.name));
      const RunReport report = run_property(property, *port, options);
      EXPECT_EQ(report.passed, 0);
      EXPECT_TRUE(report.status == RunStatus::not_supported || report.status == RunStatus::vacuous)
          << name(report.status) << " " << to_string(report.finding);
    }
}

TEST(Runner, ACheckThatAsksNothingDoesNotPass) {
  const Property property = property_of("T4", "asks_nothing", [](Implementation&, const Descriptor&) {});
  CpuReference cpu;
  const RunReport report = run_property(property, cpu, few());
  EXPECT_EQ(report.status, RunStatus::vacuous);
  EXPECT_EQ(report.discarded, 60);
}

TEST(Runner, SkipsTieRulesThatAreNotDeclared) {
  CpuReference cpu;
  EXPECT_EQ(run_property(*find_property("lowest_id_ties"), cpu, few()).status, RunStatus::not_supported);
}

class Throws final : public Implementation {
 public:
  std::string name() const override { return "throws"; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call&) override { throw InputError("cannot"); }
};

TEST(Runner, ARefusedCallAndAMissingTensorAreFailures) {
  Throws throws;
  const RunReport refused = run_property(*find_property("well_formed_routing"), throws, few());
  EXPECT_EQ(refused.status, RunStatus::failed);
  EXPECT_EQ(refused.finding.text, "refused a valid call: cannot");
}

TEST(Runner, NamesTheInputsThatWereNeverMet) {
  CpuReference cpu;
  RunOptions options = few();
  options.cases = 1;
  options.components = {Component::gate};
  const std::vector<std::string> unmet =
      unmet_buckets({run_property(*find_property("load_counts"), cpu, options)});
  // One case cannot have met them all.
  EXPECT_TRUE(std::ranges::any_of(
      unmet, [](const std::string& line) { return line.starts_with("gate: no case with "); }));
}

TEST(Runner, TheSameSeedGivesTheSameCases) {
  CpuReference cpu;
  const Property& property = *find_property("load_counts");
  const RunReport a = run_property(property, cpu, few()), b = run_property(property, cpu, few());
  EXPECT_EQ(a.buckets, b.buckets);
  EXPECT_EQ(a.passed, b.passed);
}

}  // namespace
}  // namespace moeref
