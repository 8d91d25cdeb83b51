#include "tools/report/junit.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <iterator>

#include "tools/report/findings.hpp"
#include "tools/report/xml.hpp"

namespace moeref {
namespace {

std::string failure_text(const CaseReport& report) {
  std::string text;
  for (const std::string& line : finding_lines(report, report.tensors.size())) text += line + "\n";
  return text;
}

/// The elements inside a testcase.
std::string verdict_elements(const CaseReport& report) {
  const std::string message = xml_escaped(headline(report));
  const std::string body = xml_escaped(failure_text(report));
  switch (report.verdict) {
    case Verdict::fail:
      return fmt::format("      <failure type=\"FAIL\" message=\"{}\">{}</failure>\n", message, body);
    case Verdict::crashed:
    case Verdict::hung:
      return fmt::format("      <error type=\"{}\" message=\"{}\">{}</error>\n", name(report.verdict),
                         message, body);
    case Verdict::not_supported:
    case Verdict::waived:
      return fmt::format("      <skipped message=\"{}\"/>\n", message);
    case Verdict::pass:
    case Verdict::ambiguous:
      break;
  }
  std::string notes;
  if (report.verdict == Verdict::ambiguous) notes += headline(report) + "\n";
  for (const std::string& warning : report.warnings) notes += "warning: " + warning + "\n";
  return notes.empty() ? "" : fmt::format("      <system-out>{}</system-out>\n", xml_escaped(notes));
}

void add_counts(std::string& out, const Summary& sum) {
  fmt::format_to(std::back_inserter(out), " tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
                 sum.cases, sum.count(Verdict::fail), sum.count(Verdict::crashed) + sum.count(Verdict::hung),
                 sum.count(Verdict::not_supported) + sum.count(Verdict::waived));
}

}  // namespace

std::string junit_text(const Report& report) {
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"moeref validate\"";
  add_counts(out, report.total());
  fmt::format_to(std::back_inserter(out), " time=\"{:.3f}\">\n", report.seconds);
  for (const auto& [component, sum] : report.by_component()) {
    double seconds = 0.0;
    std::string cases;
    for (const CaseReport& one : report.cases) {
      if (one.component != component) continue;
      seconds += one.seconds;
      const std::string elements = verdict_elements(one);
      fmt::format_to(std::back_inserter(cases),
                     "    <testcase classname=\"moeref.{}\" name=\"{}\" file=\"{}\" time=\"{:.3f}\"",
                     name(component), xml_escaped(one.case_name), xml_escaped(one.file.string()),
                     one.seconds);
      cases += elements.empty() ? "/>\n" : ">\n" + elements + "    </testcase>\n";
    }
    fmt::format_to(std::back_inserter(out), "  <testsuite name=\"{}\"", name(component));
    add_counts(out, sum);
    fmt::format_to(std::back_inserter(out), " time=\"{:.3f}\">\n    <properties>\n", seconds);
    fmt::format_to(std::back_inserter(out), "      <property name=\"port\" value=\"{}\"/>\n",
                   xml_escaped(report.port));
    fmt::format_to(std::back_inserter(out),
                   "      <property name=\"moeref\" value=\"{}\"/>\n    </properties>\n",
                   xml_escaped(report.moeref));
    out += cases + "  </testsuite>\n";
  }
  if (const std::string finding = report.run_finding(); !finding.empty())
    fmt::format_to(std::back_inserter(out),
                   "  <testsuite name=\"run\" tests=\"1\" failures=\"1\" errors=\"0\" skipped=\"0\">\n"
                   "    <testcase classname=\"moeref\" name=\"run\"><failure message=\"{}\"/></testcase>\n  "
                   "</testsuite>\n",
                   xml_escaped(finding));
  return out + "</testsuites>\n";
}

}  // namespace moeref
