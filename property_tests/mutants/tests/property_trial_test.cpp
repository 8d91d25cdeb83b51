// What a trial tells of a mutant; and that RapidCheck shrinks what fails on some of them.
#include "property_tests/mutants/property_trial.hpp"

#include <gtest/gtest.h>

#include "moeref/runner.hpp"
#include "property_tests/mutants/sound_port.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

class PropertyTrial : public testing::Test {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

NamedTensors sound_answer(Implementation& sound, const Call& call) { return sound.run(call); }

const Mutant kSound{.name = "sound", .components = {Component::gate}, .run = sound_answer};

TEST_F(PropertyTrial, FindsNothingInASoundImplementation) {
  Trial trial;
  Mutant mutant = kSound;
  mutant.property = "weight_sums";
  trial.mutant = &mutant;
  PropertyTrialOptions options;
  options.cases = 5;
  try_properties(trial, options);
  EXPECT_FALSE(trial.killed());
  EXPECT_EQ(trial.missed, std::vector<std::string_view>{"weight_sums"});
}

TEST_F(PropertyTrial, NamesTheCaseThatFails) {
  const Mutant& mutant = *find_mutant("scaled_twice");
  const Property& property = *find_property("weight_sums");
  const std::optional<PropertyKill> kill = try_property(mutant, property, {});
  ASSERT_TRUE(kill.has_value());
  EXPECT_TRUE(kill->repeats);
  SoundPort sound;
  EXPECT_EQ(repeat_case(property, *with_mutation(mutant, sound), kill->line).kind, Outcome::Kind::failed);
  EXPECT_EQ(repeat_case(property, sound, kill->line).kind, Outcome::Kind::passed);
}

TEST_F(PropertyTrial, APortOfBfloat16AloneIsAskedNothingElse) {
  PropertyTrialOptions options;
  options.only = DType::bfloat16;
  const std::optional<PropertyKill> kill =
      try_property(*find_mutant("scaled_twice"), *find_property("weight_sums"), options);
  ASSERT_TRUE(kill.has_value());
  EXPECT_EQ(parse_descriptor(kill->line).dtype, DType::bfloat16);
}

struct Pair {
  const char *mutant, *property;
};
void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.mutant << " by " << pair.property; }

/// One pair per component and kind of statement: the shrunk case alone shows the bug again, and nothing but
/// the bug.
class ShrunkMutant : public testing::TestWithParam<Pair> {};

TEST_P(ShrunkMutant, Repeats) {
  set_thread_count(1);
  const Mutant& mutant = *find_mutant(GetParam().mutant);
  const Property& property = *find_property(GetParam().property);
  SoundPort sound;
  const std::unique_ptr<Implementation> port = with_mutation(mutant, sound);
  RunOptions options;
  options.cases = 200;
  options.seed = 7;
  options.declared = {.lowest_id_first = true, .repeatable = true, .batch_invariant = true};
  const RunReport report = run_property(property, *port, options);
  ASSERT_EQ(report.status, RunStatus::failed);
  const std::string line = to_line(*report.smallest);
  EXPECT_EQ(repeat_case(property, *port, line).kind, Outcome::Kind::failed) << line;
  EXPECT_EQ(repeat_case(property, sound, line).kind, Outcome::Kind::passed) << line;
  set_thread_count(0);
}

INSTANTIATE_TEST_SUITE_P(Some, ShrunkMutant,
                         testing::Values(Pair{"weights_from_biased_scores", "unbiased_weights"},
                                         Pair{"ties_take_highest_id", "lowest_id_ties"},
                                         Pair{"loss_gradient_dropped", "loss_gradient"},
                                         Pair{"aux_loss_without_mean", "uniform_loss"},
                                         Pair{"bias_step_reversed", "bias_update_state_machine"},
                                         Pair{"ranks_share_a_seed", "init_rank_count"},
                                         Pair{"population_deviation", "metric_definitions"},
                                         Pair{"skip_ignored", "experts_in_turn"},
                                         Pair{"scaled_by_batch_maximum", "split_rows"},
                                         Pair{"duplicates_last_wins", "duplicates_add_exact"},
                                         Pair{"down_gradient_transposed", "linear_adjoint"},
                                         Pair{"last_rank_wins", "expert_ranks_exact"},
                                         Pair{"shared_gate_not_applied", "central_differences"},
                                         Pair{"adds_to_dirty_output", "earlier_calls"}),
                         [](const auto& info) {
                           return std::string(info.param.mutant) + "_by_" + info.param.property;
                         });

}  // namespace
}  // namespace moeref
