// Ports that do what the specification allows and others do not: none of them may fail.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <stdexcept>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "property_tests/suite/answer.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref {
namespace {

class UnusualPorts : public testing::Test {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }

  /// Every property of these components passes, or is not supported.
  static void expect_passes(Implementation& port, std::vector<Component> components, int cases,
                            const Declarations& declared = {}) {
    for (const Property& property : properties()) {
      RunOptions options;
      options.cases = cases;
      options.seed = 23;
      options.declared = declared;
      options.components = components;
      const RunReport report = run_property(property, port, options);
      EXPECT_TRUE(report.status == RunStatus::passed || report.status == RunStatus::not_supported)
          << property.name << ": " << name(report.status) << " " << to_string(report.finding) << "\n  "
          << repeat_line(report);
    }
  }
};

/// Sums by atomics: their order differs from call to call.
class AtomicSums final : public Implementation {
 public:
  std::string name() const override { return "atomic sums"; }
  std::optional<std::string> unsupported(const Call& call) const override {
    const CallOptions options = parse_call_options(call.options);
    if (options.fake_balanced_gate) return "it has no balanced gate";
    if (call.component == Component::bias_update && !options.training)
      return "it does not check that it is training";
    return ports_.front().unsupported(call);
  }
  NamedTensors run(const Call& call) override { return ports_[random_() % ports_.size()].run(call); }

 private:
  std::mt19937 random_{17};
  std::vector<eager::EagerPort> ports_{eager::EagerPort({true, eager::Order::forward, false}),
                                       eager::EagerPort({true, eager::Order::backward, false}),
                                       eager::EagerPort({true, eager::Order::pairwise, false})};
};

TEST_F(UnusualPorts, MayAddUpInAnyOrder) {
  AtomicSums port;
  expect_passes(
      port, {Component::gate, Component::aux_loss, Component::mlp, Component::experts, Component::moe}, 12);
}

/// Replayed slots come back in the order of their ids.
class SortedReplay final : public Implementation {
 public:
  std::string name() const override { return "sorted replay"; }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    Call sorted = call;
    const auto ids = sorted.tensors.find("inputs/replay_indices");
    if (ids == sorted.tensors.end()) return sound_.run(call);
    const std::int64_t k = ids->second.extent(1);
    for (std::int64_t t = 0; t < ids->second.extent(0); ++t) {
      std::vector<double> row;
      for (std::int64_t j = 0; j < k; ++j) row.push_back(ids->second[t * k + j]);
      std::ranges::sort(row);
      for (std::int64_t j = 0; j < k; ++j) ids->second.set(t * k + j, row[static_cast<std::size_t>(j)]);
    }
    return sound_.run(sorted);
  }

 private:
  CpuReference sound_;
};

TEST_F(UnusualPorts, MayReturnReplayedSlotsInAnotherOrder) {
  SortedReplay port;
  expect_passes(port, {Component::gate, Component::moe}, 25, {.lowest_id_first = true, .repeatable = true});
}

/// Initial values from a generator that knows nothing of the reference's.
class OwnGenerator final : public Implementation {
 public:
  std::string name() const override { return "own generator"; }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    const CallOptions options = parse_call_options(call.options);
    std::mt19937_64 random(options.seed.value_or(0) * 0x9e3779b97f4a7c15u + 1);
    for (auto& [name, tensor] : out) {
      if (name.ends_with("bias") || name == "outputs/shared_expert_gate.weight") continue;
      std::normal_distribution<double> normal;
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, options.init_std * normal(random));
    }
    return out;
  }

 private:
  CpuReference sound_;
};

TEST_F(UnusualPorts, MayDrawInitialValuesFromAGeneratorOfTheirOwn) {
  OwnGenerator port;
  expect_passes(port, {Component::init}, 40, {.repeatable = true});
}

/// The balanced gate has no replay, so what a port makes of ids beside it is open: no property asks.
class NoReplayWhereDealt final : public Implementation {
 public:
  std::string name() const override { return "no replay where experts are dealt"; }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    if (parse_call_options(call.options).fake_balanced_gate && call.tensors.contains("inputs/replay_indices"))
      throw std::logic_error("the balanced gate was asked to replay");
    return sound_.run(call);
  }

 private:
  CpuReference sound_;
};

TEST_F(UnusualPorts, NeedNotReplayInTheBalancedGate) {
  NoReplayWhereDealt port;
  expect_passes(port, {Component::moe}, 30, {.lowest_id_first = true, .repeatable = true});
}

}  // namespace
}  // namespace moeref
