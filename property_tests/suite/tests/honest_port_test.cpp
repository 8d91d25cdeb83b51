// An honest port that rounds as an eager framework or a fused kernel does, written from the specification
// alone, must pass every property: one that fails it raises false alarms.
//
// MOEREF_HONEST_CASES sets the number of cases per property (30 unless told), MOEREF_HONEST_SEED the seed.
#include <gtest/gtest.h>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "property_tests/suite/tests/environment.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref {
namespace {

constexpr Declarations kEager{.repeatable = true, .rounding = true};

/// The eager port, which leaves the balanced gate and the check of the training flag to others.
class Eager final : public Implementation {
 public:
  explicit Eager(eager::PortOptions options) : port_(options) {}
  std::string name() const override { return port_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override {
    const CallOptions options = parse_call_options(call.options);
    if (options.fake_balanced_gate) return "it has no balanced gate";
    if (call.component == Component::bias_update && !options.training)
      return "it does not check that it is training";
    return port_.unsupported(call);
  }
  NamedTensors run(const Call& call) override { return port_.run(call); }

 private:
  eager::EagerPort port_;
};

RunOptions some_cases(std::uint64_t seed) {
  RunOptions options;
  options.cases = static_cast<int>(environment("MOEREF_HONEST_CASES", 30));
  options.seed = seed;
  options.declared = kEager;
  return options;
}

class HonestPort : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(HonestPort, Passes) {
  const Property& property = properties()[GetParam()];
  Eager eager({false, eager::Order::forward, false}), fused({true, eager::Order::pairwise, true}),
      tf32({true, eager::Order::pairwise, true, 11});
  std::uint64_t seed = environment("MOEREF_HONEST_SEED", 11);
  for (Eager* port : {&eager, &fused, &tf32}) {
    RunOptions options = some_cases(seed++);
    if (port == &tf32) options.declared.float32_products = Float32Products::tf32;
    const RunReport report = run_property(property, *port, options);
    EXPECT_TRUE(report.status == RunStatus::passed || report.status == RunStatus::not_supported)
        << port->name() << ": " << name(report.status) << " " << to_string(report.finding) << "\n  "
        << repeat_line(report);
  }
}

INSTANTIATE_TEST_SUITE_P(All, HonestPort, testing::Range<std::size_t>(0, properties().size()),
                         [](const auto& info) { return std::string(properties()[info.param].name); });

/// The reference claims here to compute in the call's type, as a port would that hands its results on.
TEST(RoundingShows, FindsAPortThatCallsTheReference) {
  const Property& property = *find_property("rounding_shows");
  CpuReference reference;
  for (const Component component : property.components) {
    RunOptions options = some_cases(3);
    options.components = {component};
    const RunReport report = run_property(property, reference, options);
    ASSERT_EQ(report.status, RunStatus::failed) << name(component);
    Eager honest({false, eager::Order::forward, false});
    const std::string line = to_line(*report.smallest);
    EXPECT_EQ(repeat_case(property, reference, line).kind, Outcome::Kind::failed) << line;
    EXPECT_EQ(repeat_case(property, honest, line).kind, Outcome::Kind::passed) << line;
  }
}

}  // namespace
}  // namespace moeref
