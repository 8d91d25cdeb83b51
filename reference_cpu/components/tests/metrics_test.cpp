// metrics.hpp: the statistics of loads by hand.
#include "reference_cpu/components/metrics.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "reference_cpu/tests/random_call.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

TEST(MetricsTest, OfOneLayer) {
  const LayerMetrics m = layer_metrics({4, 0, 2, 2});
  EXPECT_NEAR(m.cv, std::sqrt(8.0 / 3.0) / 2.0, 1e-15);  // deviations 2, -2, 0, 0
  EXPECT_EQ(m.utilization, (std::vector<double>{2, 0, 1, 1}));
  EXPECT_EQ(m.dead_expert_frac, 0.25);
  // Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2.
  EXPECT_NEAR(m.expert_diversity, std::pow(2.0, 1.5) / 4.0, 1e-15);
}

TEST(MetricsTest, OfEvenAndOfEmptyLoads) {
  const LayerMetrics even = layer_metrics({3, 3, 3});
  EXPECT_EQ(even.cv, 0.0);
  EXPECT_NEAR(even.expert_diversity, 1.0, 1e-15);
  const LayerMetrics none = layer_metrics({0, 0});
  EXPECT_EQ(none.cv, 0.0);
  EXPECT_EQ(none.utilization, (std::vector<double>{0, 0}));
  EXPECT_EQ(none.dead_expert_frac, 1.0);
  EXPECT_EQ(none.expert_diversity, 0.0);
  EXPECT_EQ(layer_metrics({5}).cv, 0.0);
}

TEST(MetricsTest, AggregatesOverLayers) {
  const auto all = aggregate_metrics({layer_metrics({4, 0, 2, 2}), layer_metrics({1, 1, 1, 1})});
  EXPECT_NEAR(all.at("cv_mean"), std::sqrt(8.0 / 3.0) / 4.0, 1e-15);
  EXPECT_EQ(all.at("cv_min"), 0.0);
  EXPECT_EQ(all.at("cv_max"), layer_metrics({4, 0, 2, 2}).cv);
  EXPECT_EQ(all.at("cv_median"), all.at("cv_mean"));
  // Sorted: 0 1 1 1 1 1 1 2.
  EXPECT_EQ(all.at("expert_utilization_min"), 0.0);
  EXPECT_EQ(all.at("expert_utilization_p25"), 1.0);
  EXPECT_EQ(all.at("expert_utilization_max"), 2.0);
  EXPECT_EQ(all.at("dead_expert_frac_mean"), 0.125);
  EXPECT_NEAR(all.at("expert_diversity_min"), std::pow(2.0, 1.5) / 4.0, 1e-15);
  EXPECT_NEAR(all.at("expert_diversity_mean"), (1.0 + std::pow(2.0, 1.5) / 4.0) / 2.0, 1e-15);
  EXPECT_TRUE(aggregate_metrics({}).empty());
}

TEST(MetricsTest, QuartilesAreTheDocumentedPositions) {
  // One layer of 5 experts, utilisations 0.5 1 1 1 1.5 sorted: r[5 / 4] = r[1], r[3 * 5 / 4] = r[3].
  const auto all = aggregate_metrics({layer_metrics({3, 2, 2, 2, 1})});
  EXPECT_EQ(all.at("expert_utilization_p25"), 1.0);
  EXPECT_EQ(all.at("expert_utilization_median"), 1.0);
  EXPECT_EQ(all.at("expert_utilization_p75"), 1.0);
  const auto few = aggregate_metrics({layer_metrics({3, 1})});  // below four values the ends stand in
  EXPECT_EQ(few.at("expert_utilization_p25"), 0.5);
  EXPECT_EQ(few.at("expert_utilization_median"), 1.0);
  EXPECT_EQ(few.at("expert_utilization_p75"), 1.5);
}

TEST(MetricsTest, LoadsAreCounts) {
  const Call call =
      small_call(Component::metrics, small_config(2, 1), {{"inputs/expert_load", ids({1, 2}, {3, -1})}});
  EXPECT_EQ(error_of([&] { evaluate(call); }), "dataset 'inputs/expert_load': want counts of 0 or more");
}

TEST(MetricsTest, BoundsOfAnyLoadsAreFinite) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Call call = random_call(Component::metrics, DType::float32, seed);
    for (const auto& [name, result] : evaluate(call).results)
      for (std::size_t i = 0; i < result.bound.size(); ++i) {
        ASSERT_TRUE(std::isfinite(result.value[i])) << name << " seed " << seed;
        ASSERT_TRUE(result.bound[i] >= 0.0f && std::isfinite(result.bound[i])) << name << " seed " << seed;
      }
  }
}

TEST(MetricsTest, ThroughACall) {
  const Evaluation e = evaluate(small_call(Component::metrics, small_config(4, 1),
                                           {{"inputs/expert_load", ids({2, 4}, {4, 0, 2, 2, 1, 1, 1, 1})}}));
  EXPECT_EQ(values_of(e, "outputs/dead_expert_frac"), (std::vector<double>{0.25, 0}));
  EXPECT_EQ(values_of(e, "outputs/expert_utilization"), (std::vector<double>{2, 0, 1, 1, 1, 1, 1, 1}));
  EXPECT_GT(e.results.at("outputs/cv").bound[0], 0.0f);
  EXPECT_LT(e.results.at("outputs/cv").bound[0], 1e-5f);
}

}  // namespace
}  // namespace moeref
