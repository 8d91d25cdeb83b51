// sinkhorn.hpp: what is balanced, by hand; when it stops; ranks; and the gate that selects by it.
#include "reference_cpu/components/sinkhorn.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

MoEConfig balanced(std::int64_t experts, double tolerance = 1e-4) {
  MoEConfig c = small_config(experts, 1);
  c.selection_scores = SelectionScores::sinkhorn;
  c.sinkhorn_tolerance = tolerance;
  return c;
}

Bounded logits_of(std::int64_t tokens, std::vector<double> values) {
  Bounded out(tokens, static_cast<std::int64_t>(values.size()) / tokens, DType::float32);
  out.value = std::move(values);
  return out;
}

TEST(SinkhornTest, RowsAndColumnsAreEven) {
  const Bounded q = sinkhorn(balanced(3), {}, logits_of(4, {2, 0, 1, 3, 0, 0, 2, 1, 0, 1.5, 0, 0}));
  for (std::int64_t t = 0; t < 4; ++t)
    EXPECT_NEAR(q.at(t, 0).value + q.at(t, 1).value + q.at(t, 2).value, .25, 1e-4);
  for (std::int64_t e = 0; e < 3; ++e) {
    double load = 0.0;
    for (std::int64_t t = 0; t < 4; ++t) load += q.at(t, e).value;
    EXPECT_NEAR(load, 1.0 / 3.0, 1e-6);
  }
  for (const double error : q.error) EXPECT_LT(error, 1e-4);
}

TEST(SinkhornTest, StopsWhereTheExpertsFactorsChangeLittle) {
  // One token: its factor undoes the sum, and the experts' factors undo exp(z), in one round. A second one
  // changes nothing, so that a large tolerance alone stops after the first.
  const Bounded z = logits_of(1, {std::log(2.0), 0.0});
  for (const double tolerance : {1e-4, 1e3}) {
    const Bounded q = sinkhorn(balanced(2, tolerance), {}, z);
    EXPECT_NEAR(q.at(0, 0).value, 0.5, 1e-6);
  }
  // Two tokens with opposite logits, one round by hand: d0 = 1/2 / 3, d1 = 1/2 / (d0 3) = 1.
  const Bounded even = sinkhorn(balanced(2), {}, logits_of(2, {std::log(2.0), 0.0, 0.0, std::log(2.0)}));
  EXPECT_NEAR(even.at(0, 0).value, 1.0 / 3.0, 1e-6);
  EXPECT_NEAR(even.at(0, 1).value, 1.0 / 6.0, 1e-6);
}

TEST(SinkhornTest, WhatOverflowsIsOpen) {
  const Bounded q = sinkhorn(balanced(2), {}, logits_of(2, {100, 0, 0, 0}));
  for (const double error : q.error) EXPECT_FALSE(error < INFINITY);
  EXPECT_EQ(sinkhorn(balanced(2), {}, Bounded(0, 2, DType::float32)).rows, 0);
}

TEST(SinkhornTest, EachRankBalancesItsOwnTokens) {
  ParallelOptions two;
  two.cp_size = 2;
  const Bounded all = logits_of(4, {2, 0, 1, 0, 3, 0, 0, 1});
  const Bounded q = sinkhorn(balanced(2), two, all);
  const Bounded first = sinkhorn(balanced(2), {}, rows_of(all, 0, 2));
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(q.at(i).value, first.at(i).value);
}

TEST(SinkhornTest, TheGateSelectsByItInTraining) {
  // Both tokens score higher with expert 0; the one that prefers it less goes to expert 1.
  MoEConfig c = balanced(2);
  c.score_func = ScoreFunc::sigmoid;
  Call call = small_call(Component::gate, c,
                         {{"inputs/x", tensor({2, 1}, {3, 1})}, {"params/weight", tensor({2, 1}, {1, 0})}});
  EXPECT_EQ(values_of(evaluate(call), "outputs/indices"), (std::vector<double>{0, 1}));
  EXPECT_EQ(values_of(evaluate(call), "outputs/weights")[1], 0.5);
  call.options["training"] = false;
  EXPECT_EQ(values_of(evaluate(call), "outputs/indices"), (std::vector<double>{0, 0}));
}

}  // namespace
}  // namespace moeref
