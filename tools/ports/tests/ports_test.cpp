// Whatever a port does is a verdict.
#include "tools/ports/port.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

#include "moeref/error.hpp"

namespace moeref {
namespace {

class ScriptedImplementation final : public Implementation {
 public:
  explicit ScriptedImplementation(NamedTensors (*run)()) : run_(run) {}
  std::string name() const override { return "scripted"; }
  std::optional<std::string> unsupported(const Call& call) const override {
    if (call.component == Component::init) return "no init";
    return std::nullopt;
  }
  NamedTensors run(const Call&) override { return run_(); }

 private:
  NamedTensors (*run_)();
};

PortOutcome outcome_of(NamedTensors (*run)(), Component component = Component::gate) {
  Call call;
  call.component = component;
  return make_port(std::make_unique<ScriptedImplementation>(run), false)->run("case.h5", call);
}

TEST(PortTest, GivesResults) {
  const PortOutcome outcome = outcome_of([] {
    return NamedTensors{{"outputs/y", Tensor(DType::float32, {2})}};
  });
  EXPECT_EQ(outcome.verdict, Verdict::pass);
  EXPECT_EQ(outcome.results.size(), 1u);
}

TEST(PortTest, NotSupported) {
  const PortOutcome outcome =
      outcome_of([]() -> NamedTensors { throw std::logic_error("called"); }, Component::init);
  EXPECT_EQ(outcome.verdict, Verdict::not_supported);
  EXPECT_EQ(outcome.finding, "no init");
}

TEST(PortTest, ExceptionsAreFindings) {
  const PortOutcome threw =
      outcome_of([]() -> NamedTensors { throw std::runtime_error("out of registers"); });
  EXPECT_EQ(threw.verdict, Verdict::crashed);
  EXPECT_EQ(threw.finding, "the port threw: out of registers");
  EXPECT_EQ(outcome_of([]() -> NamedTensors { throw 7; }).verdict, Verdict::crashed);
  EXPECT_EQ(outcome_of([]() -> NamedTensors { throw InputError("E is 8"); }).verdict, Verdict::fail);
}

TEST(PortTest, NoResultsIsAFailure) {
  EXPECT_EQ(outcome_of([] { return NamedTensors{}; }).verdict, Verdict::fail);
}

TEST(PortTest, UnknownPortsAreNamed) {
  try {
    open_port("gpu");
    FAIL();
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()),
              "unknown port 'gpu': want one of cpu, cuda, results:DIR, exec:COMMAND, PATH.so");
  }
  EXPECT_THROW(open_port("results:"), InputError);
  EXPECT_THROW(open_port("results:/no/such/folder"), InputError);
  EXPECT_TRUE(open_port("cpu")->is_reference());
}

}  // namespace
}  // namespace moeref
