#include "tools/report/comparison.hpp"

#include <fmt/core.h>

#include <array>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "moeref/error.hpp"
#include "tools/report/html_page.hpp"
#include "tools/report/xml.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

using nlohmann::json;

struct HeldCase {
  std::string verdict, finding;
};

struct HeldReport {
  std::string port;
  std::map<std::string, HeldCase> cases;
};

/// What failed in a case of the JSON report: its finding, or the first tensor that fails.
std::string finding_of(const json& one) {
  if (const std::string text = one.value("finding", ""); !text.empty()) return text;
  for (const json& tensor : one.value("tensors", json::array()))
    if (tensor.value("verdict", "") == "FAIL")
      return fmt::format("{}: {}", tensor.value("place", tensor.value("tensor", "")),
                         tensor.value("finding", ""));
  return "";
}

HeldReport read_report(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw InputError(path.string() + ": cannot be read");
  const json report = json::parse(in, nullptr, false);
  if (!report.is_object() || report.value("format", json()) != "moeref-report")
    throw InputError(path.string() + ": is no JSON report of moeref validate");
  HeldReport held;
  try {
    held.port = report.at("port").get<std::string>();
    for (const json& one : report.at("cases"))
      held.cases[fmt::format("{}__{}", one.at("component").get<std::string>(),
                             one.at("case").get<std::string>())] = {one.at("verdict").get<std::string>(),
                                                                    finding_of(one)};
  } catch (const json::exception& error) {
    throw InputError(path.string() + ": is no JSON report of moeref validate: " + error.what());
  }
  return held;
}

bool passes(std::string_view verdict) { return verdict == "PASS" || verdict == "AMBIGUOUS"; }
bool fails(std::string_view verdict) {
  return verdict == "FAIL" || verdict == "HUNG" || verdict == "CRASHED";
}

struct Heading {
  std::string_view text;
  const std::vector<VerdictChange>* changes;
};

std::array<Heading, 3> headings(const ReportComparison& comparison) {
  return {{{"worse", &comparison.worse}, {"better", &comparison.better}, {"other", &comparison.other}}};
}

std::string_view or_absent(const std::string& verdict) {
  return verdict.empty() ? "absent" : std::string_view(verdict);
}

}  // namespace

ReportComparison compare_reports(const std::filesystem::path& before, const std::filesystem::path& after) {
  const HeldReport old = read_report(before), now = read_report(after);
  ReportComparison out{old.port, now.port, {}, {}, {}, 0};
  std::map<std::string, std::pair<HeldCase, HeldCase>> both;
  for (const auto& [name, one] : old.cases) both[name].first = one;
  for (const auto& [name, one] : now.cases) both[name].second = one;
  for (const auto& [name, pair] : both) {
    const auto& [was, is] = pair;
    if (was.verdict == is.verdict) {
      ++out.same;
      continue;
    }
    // A case that was judged and passed, and is refused now, is worse, too.
    const bool worse = fails(is.verdict) ? !was.verdict.empty()
                                         : passes(was.verdict) && !is.verdict.empty() && !passes(is.verdict);
    const bool better = passes(is.verdict) && !was.verdict.empty() && !passes(was.verdict);
    auto& list = worse ? out.worse : better ? out.better : out.other;
    list.push_back({name, was.verdict, is.verdict, passes(is.verdict) ? was.finding : is.finding});
  }
  return out;
}

std::string comparison_text(const ReportComparison& comparison, bool colours) {
  std::string out = fmt::format("before {}, after {}\n", comparison.before, comparison.after);
  for (const auto& [text, changes] : headings(comparison)) {
    if (changes->empty()) continue;
    out += fmt::format("\n{}\n", text);
    std::vector<Row> rows;
    for (const VerdictChange& change : *changes)
      rows.push_back({{change.name},
                      {std::string(or_absent(change.before))},
                      {std::string(or_absent(change.after)), fails(change.after)    ? Colour::red
                                                             : passes(change.after) ? Colour::green
                                                                                    : Colour::plain},
                      {change.finding.substr(0, 160)}});
    out += columns(rows, colours);
  }
  return out + fmt::format("\n{} worse, {} better, {} other, {} the same\n", comparison.worse.size(),
                           comparison.better.size(), comparison.other.size(), comparison.same);
}

std::string comparison_html(const ReportComparison& comparison) {
  std::string body = fmt::format(
      "<header><p class=\"tool\">moeref compare</p><h1>{} &#8594; {}</h1><p>{} worse, {} better, {} "
      "other, {} the same</p></header>\n<main id=\"cases\">\n",
      xml_escaped(comparison.before), xml_escaped(comparison.after), comparison.worse.size(),
      comparison.better.size(), comparison.other.size(), comparison.same);
  for (const auto& [text, changes] : headings(comparison)) {
    if (changes->empty()) continue;
    body += fmt::format(
        "<section aria-labelledby=\"{0}\"><h2 id=\"{0}\">{0}</h2><div class=\"scroll\" tabindex=\"0\"><table>"
        "<thead><tr><th scope=\"col\">case</th><th scope=\"col\">before</th><th scope=\"col\">after</th>"
        "<th scope=\"col\" class=\"where\">finding</th></tr></thead><tbody>",
        text);
    for (const VerdictChange& change : *changes)
      body +=
          fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"where\">{}</td></tr>",
                      xml_escaped(change.name), or_absent(change.before), or_absent(change.after),
                      xml_escaped(change.finding));
    body += "</tbody></table></div></section>\n";
  }
  return html_page("moeref compare", body + "</main>\n");
}

}  // namespace moeref
