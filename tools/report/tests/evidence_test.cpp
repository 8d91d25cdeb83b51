// What is kept of a failing case.
#include "tools/report/evidence.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "moeref/golden_file.hpp"

namespace moeref {
namespace {

GoldenFile golden(const char* name) {
  return read_golden(std::filesystem::path(MOEREF_GOLDEN) / "documented_system" /
                     (std::string(name) + ".h5"));
}

Evidence evidence_of(const GoldenFile& file, const std::string& tensor, std::int64_t worst) {
  ReferenceResults reference(file.call);
  return collect_evidence(reference, file.results, tensor, worst);
}

TEST(EvidenceTest, ShowsTheValuesAroundTheWorstElement) {
  GoldenFile file = golden("mlp__swiglu");
  Tensor& y = file.results.at("outputs/y");
  y.set(30, y[30] + 100.0);
  const Evidence evidence = evidence_of(file, "outputs/y", 30);
  ASSERT_EQ(evidence.around.size(), 11u);
  EXPECT_EQ(evidence.around.front().index, 25);
  EXPECT_EQ(evidence.worst, 30);
  for (const EvidenceValue& at : evidence.around) {
    EXPECT_EQ(at.value, y[at.index]);
    EXPECT_EQ(at.ratio() > 1.0, at.index == 30) << at.index;
  }
  EXPECT_EQ(evidence.shape, y.shape());
  EXPECT_TRUE(evidence.routing.empty());
  // The map has the one wrong element, in its own cell.
  const RatioMap& map = evidence.ratios;
  const std::int64_t columns = y.shape().back();
  const std::size_t cell = static_cast<std::size_t>(30 / columns / map.rows_a_cell * map.columns +
                                                    30 % columns / map.columns_a_cell);
  for (std::size_t i = 0; i < map.worst.size(); ++i) EXPECT_EQ(map.worst[i] > 1.0, i == cell) << i;
}

TEST(EvidenceTest, StopsAtTheEnds) {
  GoldenFile file = golden("mlp__swiglu");
  const std::int64_t last = file.results.at("outputs/y").size() - 1;
  EXPECT_EQ(evidence_of(file, "outputs/y", 0).around.size(), 6u);
  EXPECT_EQ(evidence_of(file, "outputs/y", last).around.size(), 6u);
  EXPECT_TRUE(evidence_of(file, "outputs/y", -1).around.empty());
  EXPECT_TRUE(evidence_of(file, "outputs/y", last + 1).around.empty());
  file.results["outputs/y"] = Tensor(DType::float32, {2, 3});
  EXPECT_TRUE(evidence_of(file, "outputs/y", 0).around.empty());
  EXPECT_TRUE(evidence_of(file, "outputs/absent", 0).around.empty());
}

TEST(EvidenceTest, SaysWhoChoseWhichExperts) {
  GoldenFile file = golden("gate__sigmoid");
  Tensor& ids = file.results.at("outputs/indices");
  const std::int64_t k = ids.shape()[1];
  std::int64_t free = 0;
  const auto taken = [&] {
    for (std::int64_t j = 0; j < k; ++j)
      if (ids[j] == static_cast<double>(free)) return true;
    return false;
  };
  while (taken()) ++free;
  const auto before = static_cast<std::size_t>(ids[0]);
  ids.set(0, static_cast<double>(free));
  const Evidence evidence = evidence_of(file, "outputs/indices", 0);
  ASSERT_EQ(evidence.routing.size(), 1u);
  const RoutingEvidence& routing = evidence.routing[0];
  EXPECT_EQ(routing.differing, 1);
  EXPECT_EQ(routing.reference_load[before] - routing.port_load[before], 1);
  EXPECT_EQ(routing.port_load[static_cast<std::size_t>(free)] -
                routing.reference_load[static_cast<std::size_t>(free)],
            1);
  EXPECT_EQ(routing.shown.size(), static_cast<std::size_t>(routing.tokens));
  EXPECT_NE(routing.shown[0].reference, routing.shown[0].port);
  EXPECT_EQ(routing.shown[1].reference, routing.shown[1].port);
}

TEST(EvidenceTest, IdsThatAreNoExpertsAreCounted) {
  GoldenFile file = golden("gate__sigmoid");
  Tensor& ids = file.results.at("outputs/indices");
  ids.set(0, 1000.0);
  ids.set(3, ids[2]);
  const Evidence evidence = evidence_of(file, "outputs/weights", 0);
  ASSERT_EQ(evidence.routing.size(), 1u);
  EXPECT_EQ(evidence.routing[0].differing, 2);
  EXPECT_FALSE(evidence.around.empty());  // on the reference's own routing
}

TEST(EvidenceTest, RatioOfNumbersThatAreNone) {
  EXPECT_EQ((EvidenceValue{0, NAN, 1.0, 0.1}).ratio(), INFINITY);
  EXPECT_EQ((EvidenceValue{0, 1.0, INFINITY, 0.1}).ratio(), INFINITY);
  EXPECT_EQ((EvidenceValue{0, INFINITY, INFINITY, 0.1}).ratio(), 0.0);
  EXPECT_EQ((EvidenceValue{0, -INFINITY, INFINITY, 0.1}).ratio(), INFINITY);
  EXPECT_EQ((EvidenceValue{0, 1.0, 2.0, 0.0}).ratio(), INFINITY);
  EXPECT_EQ((EvidenceValue{0, 1.0, 2.0, 0.5}).ratio(), 2.0);
  EXPECT_EQ((EvidenceValue{0, 1.0, 2.0, INFINITY}).ratio(), 0.0);
}

}  // namespace
}  // namespace moeref
