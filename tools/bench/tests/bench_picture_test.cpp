// The benchmark's picture: well-formed, self-contained, and every point where its numbers say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "tools/bench/tests/sample_bench_report.hpp"
#include "tools/report/tests/xml_document.hpp"

namespace moeref {
namespace {

using testing::bench_report;
using testing::device_rows;
using testing::XmlElement;

/// Texts of an element's kind below it.
std::vector<std::string> texts(const XmlElement& in, const char* kind) {
  std::vector<std::string> out;
  for (const XmlElement* one : in.all(kind)) out.push_back(one->text);
  return out;
}

bool has(const std::vector<std::string>& texts, const std::string& text) {
  return std::ranges::find(texts, text) != texts.end();
}

std::vector<BenchRow> scaled(std::vector<BenchRow> rows, double by) {
  for (BenchRow& row : rows) row.measured.median_ms *= by;
  return rows;
}

TEST(BenchPictureTest, HasAPanelAPassAndALineAShape) {
  const XmlElement svg = testing::parse_xml(
      bench_picture(bench_report({device_rows("mixtral", 1024), scaled(device_rows("mixtral", 4096), 3.0),
                                  device_rows("olmoe", 1024), scaled(device_rows("olmoe", 4096), 2.0)})));
  EXPECT_EQ(svg.name, "svg");
  EXPECT_EQ(svg.attributes.at("xmlns"), "http://www.w3.org/2000/svg");
  const auto panels = svg.all("g");
  ASSERT_EQ(panels.size(), 2U);
  for (const XmlElement* panel : panels) {
    std::size_t lines = 0;
    for (const XmlElement* path : panel->all("path"))
      lines += path->attributes.contains("class") && path->attributes.at("class") == "line";
    EXPECT_EQ(lines, 2U);
    EXPECT_EQ(panel->all("title").size(), 4U);
  }
  const std::vector<std::string> words = texts(svg, "text");
  for (const char* word :
       {"mixtral", "olmoe", "forward", "forward + backward", "1024", "4096", "ms", "tokens"})
    EXPECT_TRUE(has(words, word)) << word;
  EXPECT_TRUE(has(texts(*panels[0], "title"), "mixtral, 4096 tokens: 6 ms, 100.0 TF"));
  EXPECT_TRUE(has(texts(*panels[1], "title"), "olmoe, 4096 tokens: 16 ms, 112.5 TF"));
  // Nothing is loaded.
  EXPECT_TRUE(svg.all("image").empty());
  EXPECT_TRUE(svg.all("use").empty());
}

TEST(BenchPictureTest, PointsStandWhereTheirTimesAre) {
  const XmlElement svg = testing::parse_xml(bench_picture(bench_report(
      {device_rows("a", 1024), scaled(device_rows("a", 2048), 2.0), scaled(device_rows("a", 4096), 4.0)})));
  const XmlElement* forward = svg.all("g").front();
  std::vector<std::pair<double, double>> points;
  for (const XmlElement* path : forward->all("path")) {
    if (path->all("title").empty()) continue;
    double x = 0.0, y = 0.0;
    ASSERT_EQ(std::sscanf(path->attributes.at("transform").c_str(), "translate(%lf %lf)", &x, &y), 2);
    points.emplace_back(x, y);
  }
  ASSERT_EQ(points.size(), 3U);
  // Doubling both is a straight line on logarithmic axes: right and up by the same each time.
  for (std::size_t i = 1; i < points.size(); ++i) {
    EXPECT_GT(points[i].first, points[i - 1].first + 20);
    EXPECT_LT(points[i].second, points[i - 1].second - 20);
  }
  EXPECT_NEAR(points[2].first - points[1].first, points[1].first - points[0].first, 0.21);
  EXPECT_NEAR(points[2].second - points[1].second, points[1].second - points[0].second, 0.21);
}

TEST(BenchPictureTest, NamesAreShownAsText) {
  const XmlElement svg = testing::parse_xml(bench_picture(bench_report({device_rows("<b>&\"\xff", 1)})));
  EXPECT_TRUE(has(texts(svg, "text"), "<b>&\"?"));
}

TEST(BenchPictureTest, ASinglePointAndNoPoint) {
  const XmlElement one =
      testing::parse_xml(bench_picture(bench_report({device_rows("a", 1, Component::experts)})));
  EXPECT_EQ(one.all("g").size(), 2U);
  EXPECT_TRUE(has(texts(one, "text"), "Time of experts against tokens, port cuda, NVIDIA H200"));
  const XmlElement none = testing::parse_xml(bench_picture(bench_report({})));
  EXPECT_TRUE(has(texts(none, "text"), "Nothing was measured."));
}

}  // namespace
}  // namespace moeref
