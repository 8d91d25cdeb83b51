// What each property says of the passes that it asks for is what it does, and a port without a backward pass
// gets all that can be had without one.
#include <gtest/gtest.h>

#include "moeref/gradients_judged.hpp"
#include "moeref/reference.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

class Recorder final : public Implementation {
 public:
  std::string name() const override { return "recorder"; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call& call) override {
    backward = backward || call.backward;
    return reference_.run(call);
  }
  bool backward = false;

 private:
  CpuReference reference_;
};

class PassesOf : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }

  const Property& property() const { return properties()[GetParam()]; }
  RunReport report(Implementation& port) const {
    RunOptions options;
    options.cases = 12 + 4 * static_cast<int>(property().components.size());  // so that each one comes
    options.seed = 5;
    options.declared = {
        .lowest_id_first = true, .repeatable = true, .batch_invariant = true, .counter_generator = true};
    return run_property(property(), port, options);
  }
};

TEST_P(PassesOf, IsWhatItAsksFor) {
  Recorder recorder;
  (void)report(recorder);
  if (property().needs == Needs::rounding) return;  // not run: the reference does not declare it
  EXPECT_EQ(recorder.backward, property().passes != Passes::forward);
}

TEST_P(PassesOf, LeavesOutputsToAPortWithoutGradients) {
  CpuReference sound;
  ForwardOnly forward(sound);
  if (property().needs == Needs::rounding) return;
  const RunReport ran = report(forward);
  const RunStatus want = property().passes == Passes::backward ? RunStatus::not_supported : RunStatus::passed;
  EXPECT_EQ(ran.status, want) << name(ran.status) << " " << to_string(ran.finding) << " " << repeat_line(ran);
}

INSTANTIATE_TEST_SUITE_P(All, PassesOf, testing::Range<std::size_t>(0, properties().size()),
                         [](const auto& info) { return std::string(properties()[info.param].name); });

}  // namespace
}  // namespace moeref
