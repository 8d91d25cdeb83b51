// --html, --waivers and --must-pass of moeref validate, as a user meets them.
#include <nlohmann/json.hpp>

#include <fstream>

#include "tools/commands/tests/damaged_golden.hpp"
#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

class ReportOptionsTest : public CommandTest {
 protected:
  /// A port that is wrong in one weight of one case.
  void SetUp() override {
    CommandTest::SetUp();
    for (const char* name : {"gate__sigmoid", "mlp__swiglu"}) {
      copy_case(name, at("golden"));
      copy_case(name, at("results"));
    }
    set_value(at("results") / "gate__sigmoid.h5", "outputs/weights", 24, 0.125);
  }

  Finished validate(std::vector<std::string> more) {
    more.insert(more.begin(),
                {"validate", "--port", "results:" + at("results").string(), at("golden").string()});
    return run_moeref(more);
  }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(at(name)) << text;
    return at(name).string();
  }
  std::string waiver(const std::string& fields) {
    return write("waivers.json", "{\"waivers\": [{\"issue\": \"https://example.org/7\", " + fields + "}]}");
  }
};

TEST_F(ReportOptionsTest, HtmlShowsTheFailure) {
  const Finished finished = validate({"--html", at("report.html").string(), "--date", "2026-11-23"});
  EXPECT_EQ(finished.exit_code, 1);
  const std::string page = text_of(at("report.html"));
  EXPECT_TRUE(holds(page, "port outputs/weights[12, 0] = 0.125")) << page.substr(0, 2000);
  EXPECT_TRUE(holds(page, "<tr class=\"worst\"><th>[12, 0]</th><td>0.125</td>"));
  EXPECT_TRUE(holds(page, "0 of 37 tokens chose other experts"));
  EXPECT_TRUE(holds(page, "<dt>date</dt><dd>2026-11-23</dd>"));
  EXPECT_TRUE(holds(page, "<dt>compiler</dt>"));
}

TEST_F(ReportOptionsTest, HtmlHasNoDateOfItsOwn) {
  validate({"--html", at("report.html").string()});
  EXPECT_FALSE(holds(text_of(at("report.html")), "<dt>date</dt>"));
}

TEST_F(ReportOptionsTest, HtmlThatCannotBeWrittenIsToldFirst) {
  EXPECT_TRUE(holds(bad_input_line(validate({"--html", at("nowhere/report.html").string()})), "report.html"));
}

TEST_F(ReportOptionsTest, WaivedFailureIsCountedAndPasses) {
  const Finished finished =
      validate({"--waivers", waiver(R"("case": "gate__*", "tensor": "outputs/weights")"), "--json",
                at("r.json").string()});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(holds(finished.out, "(1 PASS, 1 WAIVED)")) << finished.out;
  const auto report = nlohmann::json::parse(text_of(at("r.json")));
  EXPECT_EQ(report["cases"][0]["verdict"], "WAIVED");
  EXPECT_EQ(report["cases"][0]["waiver"], "https://example.org/7");
}

TEST_F(ReportOptionsTest, ExpiredWaiverFailsInALineThatNamesIt) {
  const std::string file = waiver(R"("case": "gate__sigmoid", "expires": "2020-01-31")");
  const Finished finished = validate({"--waivers", file});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "\nrun " + file + ": entry 1 (gate__sigmoid): expired on 2020-01-31\n"))
      << finished.out;
}

TEST_F(ReportOptionsTest, BadWaiversAreBadInput) {
  const std::string file = write("waivers.json", "{");
  EXPECT_TRUE(bad_input_line(validate({"--waivers", file})).starts_with(file + ": is no JSON"));
  bad_input_line(validate({"--waivers", at("none.json").string()}));
}

TEST_F(ReportOptionsTest, MustPassNamesWhatDidNot) {
  const std::string file = write("list.txt", "mlp__swiglu grads\ngate__sigmoid\ngate__absent\n");
  const Finished finished = validate({"--must-pass", file});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "run must-pass " + file + ": gate__sigmoid: FAIL\n")) << finished.out;
  EXPECT_TRUE(holds(finished.out, ": gate__absent: not among the cases of this run\n"));
  EXPECT_FALSE(holds(finished.out, ": mlp__swiglu:"));
}

TEST_F(ReportOptionsTest, MustPassThatHoldsChangesNothing) {
  const std::string file = write("list.txt", "mlp__swiglu grads\n");
  const Finished finished =
      run_moeref({"validate", "--port", "cpu", at("golden").string(), "--must-pass", file});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
}

TEST_F(ReportOptionsTest, UnknownMustPassListIsBadInput) {
  const std::string line = bad_input_line(validate({"--must-pass", "everything"}));
  EXPECT_TRUE(holds(line, "want core, expert_parallelism, training, or a file")) << line;
}

}  // namespace
}  // namespace moeref::testing
