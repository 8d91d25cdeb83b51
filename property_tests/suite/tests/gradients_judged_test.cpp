#include "moeref/gradients_judged.hpp"

#include <gtest/gtest.h>

#include "moeref/reference.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

RunOptions of_mlp() {
  RunOptions options;
  options.cases = 20;
  options.seed = 3;
  options.components = {Component::mlp};
  options.declared = {.lowest_id_first = true, .repeatable = true};
  return options;
}

class GradientsJudgedTest : public testing::Test {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }

  std::vector<Component> unjudged_after(Implementation& port, std::initializer_list<const char*> names) {
    GradientsJudged gradients(port);
    for (const char* name : names) gradients.note(run_property(*find_property(name), gradients, of_mlp()));
    return gradients.unjudged();
  }
  CpuReference sound;
};

TEST_F(GradientsJudgedTest, GradientsAgainstGradientsJudgeNothing) {
  EXPECT_EQ(unjudged_after(sound, {"split_rows", "row_order", "linear_cotangent"}),
            std::vector{Component::mlp});
}

TEST_F(GradientsJudgedTest, FormulasAndDifferencesJudge) {
  EXPECT_TRUE(unjudged_after(sound, {"split_rows", "within_bounds"}).empty());
  EXPECT_TRUE(unjudged_after(sound, {"central_differences"}).empty());
}

TEST_F(GradientsJudgedTest, APropertyThatRanOnOutputsAloneJudgesNone) {
  ForwardOnly forward(sound);
  EXPECT_EQ(unjudged_after(forward, {"split_rows", "within_bounds", "central_differences"}),
            std::vector{Component::mlp});
}

TEST_F(GradientsJudgedTest, WhatDidNotRunIsNotMissed) { EXPECT_TRUE(unjudged_after(sound, {}).empty()); }

}  // namespace
}  // namespace moeref
