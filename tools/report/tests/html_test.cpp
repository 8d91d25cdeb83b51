// The HTML report as text; html_browser_test.py opens it.
#include "tools/report/html.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tools/report/html_case.hpp"
#include "tools/report/tests/sample_report.hpp"
#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

using testing::failing_case;
using testing::passing_case;
using testing::sample_report;
using testing::unjudged_case;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

constexpr const char* kHostile =
    "</script><script>document.title='x'</script><img src=x onerror=alert(1)>\"'`&";

TEST(HtmlTest, SaysPortVersionTotalsAndOutcome) {
  const std::string page =
      html_text(sample_report({passing_case(), failing_case(), unjudged_case(Verdict::not_supported, "no")}));
  EXPECT_TRUE(holds(page, "<span class=\"outcome failed\">FAILED</span> results:out"));
  EXPECT_TRUE(holds(page, "moeref 1.2.3 validate"));
  EXPECT_TRUE(holds(page, "this with that"));
  EXPECT_TRUE(holds(page, "exit code</span> <b>1</b>"));
  EXPECT_TRUE(holds(page, "<th scope=\"row\">gate</th><td>2</td>"));
  EXPECT_TRUE(holds(page, "#verdict=FAIL&amp;component=gate"));
  EXPECT_EQ(count(page, "<li class=\"case\""), 3u);
  EXPECT_TRUE(
      holds(html_text(sample_report({passing_case()})), "<span class=\"outcome passed\">PASSED</span>"));
}

TEST(HtmlTest, FailuresComeFirst) {
  const std::string page = html_text(sample_report({passing_case(), failing_case()}));
  EXPECT_LT(page.find("data-verdict=\"FAIL\""), page.find("data-verdict=\"PASS\""));
}

TEST(HtmlTest, HostileTextStaysText) {
  Report report = sample_report({passing_case(), failing_case()});
  CaseReport& one = report.cases[1];
  for (std::string* text :
       {&one.case_name, &one.note, &one.finding, &one.repeat, &one.dtype, &one.waiver, &report.port,
        &report.moeref, &report.compared, &one.tensors[0].verdict.tensor, &one.tensors[0].verdict.finding})
    *text = kHostile;
  one.file = kHostile;
  one.flags = one.warnings = report.findings = {kHostile};
  report.environment = {{kHostile, kHostile}};
  one.evidence.emplace();
  one.evidence->tensor = kHostile;
  one.evidence->around = {{0, 1.0, 2.0, 0.1}};
  one.evidence->routing = {{kHostile, 1, 2, 1, {1, 0}, {0, 1}, {{0, {0}, {1}}}}};
  const std::string page = html_text(report);
  EXPECT_EQ(count(page, "<script"), 1u);
  EXPECT_EQ(count(page, "</script"), 1u);
  EXPECT_FALSE(holds(page, "<img"));
  EXPECT_FALSE(holds(page, "'x'"));
  EXPECT_TRUE(holds(page, "&lt;/script&gt;"));
  EXPECT_FALSE(holds(page, "href=\"</"));
}

TEST(HtmlTest, OnlyWebAddressesBecomeLinks) {
  EXPECT_EQ(html_link("https://example.org/?a=1&b=\"2\""),
            "<a href=\"https://example.org/?a=1&amp;b=&quot;2&quot;\" rel=\"noreferrer\">"
            "https://example.org/?a=1&amp;b=&quot;2&quot;</a>");
  EXPECT_EQ(html_link("javascript:alert(1)"), "javascript:alert(1)");
  EXPECT_EQ(html_link(""), "");
}

TEST(HtmlTest, LoadsNothing) {
  const std::string page = html_text(sample_report({passing_case(), failing_case()}));
  for (const char* loads : {"src=", "@import", "url(", "<link", "http://", "https://", "fetch(", "innerHTML"})
    EXPECT_FALSE(holds(page, loads)) << loads;
  EXPECT_TRUE(holds(page, "default-src 'none'"));
}

TEST(HtmlTest, ShowsTheEvidenceOfAFailure) {
  CaseReport one = failing_case();
  Evidence evidence;
  evidence.tensor = "outputs/weights";
  evidence.shape = {37, 2};
  evidence.around = {{12, 0.5, 0.5, 1e-3}, {13, 0.25, 0.5, 1e-3}, {14, NAN, 0.5, 1e-3}};
  evidence.worst = 13;
  evidence.ratios = {2, 2, 1, 1, {0.0, 250.0, 0.5, INFINITY}};
  evidence.routing = {
      {"outputs/indices", 2, 4, 1, {2, 1, 1, 0}, {2, 1, 0, 1}, {{0, {0, 1}, {0, 1}}, {1, {0, 2}, {0, 3}}}}};
  one.evidence = evidence;
  const std::string page = html_case(one, true);
  EXPECT_TRUE(holds(page, "<details open>"));
  EXPECT_TRUE(
      holds(page, "<tr class=\"worst\"><th>[6, 1]</th><td>0.25</td><td>0.5</td><td>0.001</td><td>250</td>"));
  EXPECT_TRUE(holds(page, "<td>nan</td>"));
  EXPECT_TRUE(holds(page, "<path class=\"r3\" d=\"M1 0h1v1h-1z\"/>"));
  EXPECT_TRUE(holds(page, "<path class=\"r4\" d=\"M1 1h1v1h-1z\"/>"));
  EXPECT_TRUE(holds(page, "outputs/indices: 1 of 2 tokens chose other experts"));
  EXPECT_TRUE(holds(page, "<path class=\"missed\" d=\"M2 1h1v1h-1z\"/>"));
  EXPECT_TRUE(holds(page, "<path class=\"extra\" d=\"M3 1h1v1h-1z\"/>"));
  EXPECT_TRUE(holds(page, "expert 2: 1 tokens, port 0; expert 3: 0 tokens, port 1."));
}

TEST(HtmlTest, HistogramsCountTheTensorsOfAStage) {
  CaseReport other = passing_case("b");
  other.tensors[0].verdict.ratio = 7.0;
  const std::string page = html_text(sample_report({passing_case(), other}));
  EXPECT_TRUE(holds(page, "aria-label=\"weights: 2 tensors, 1 above r = 1\""));
  EXPECT_TRUE(holds(page, "<title>r to 0.5: 1</title>"));
  EXPECT_TRUE(holds(page, "<title>r to 10: 1</title>"));
}

TEST(HtmlTest, EmptyRunIsAPage) {
  const std::string page = html_text(sample_report({}));
  EXPECT_TRUE(holds(page, "no case ran, which proves nothing"));
  EXPECT_TRUE(page.ends_with("</html>\n"));
}

}  // namespace
}  // namespace moeref
