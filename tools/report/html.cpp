#include "tools/report/html.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "tools/report/findings.hpp"
#include "tools/report/html_case.hpp"
#include "tools/report/html_charts.hpp"
#include "tools/report/html_groups.hpp"
#include "tools/report/html_page.hpp"
#include "tools/report/xml.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {

namespace {

/// The worst first.
constexpr std::array<Verdict, 7> kVerdicts{Verdict::crashed,       Verdict::hung,      Verdict::fail,
                                           Verdict::not_supported, Verdict::ambiguous, Verdict::waived,
                                           Verdict::pass};

std::vector<Verdict> occurring(const Summary& total) {
  std::vector<Verdict> verdicts;
  for (const Verdict verdict : kVerdicts)
    if (total.count(verdict) > 0) verdicts.push_back(verdict);
  return verdicts;
}

std::string header(const Report& report, const Summary& total) {
  const int code = report.exit_code();
  std::string counts;
  for (const Verdict verdict : occurring(total))
    counts += fmt::format("<li>{} <b>{}</b></li>", html_verdict(verdict), total.count(verdict));
  std::string out = fmt::format(
      "<header><p class=\"tool\">moeref {} validate</p><h1><span class=\"outcome {}\">{}</span> {}</h1>"
      "<p>{}</p><ul class=\"counts\" aria-label=\"totals\">{}<li><span class=\"quiet\">cases</span> "
      "<b>{}</b></li><li><span class=\"quiet\">exit code</span> <b>{}</b></li></ul>",
      xml_escaped(report.moeref), code == kExitPassed ? "passed" : "failed",
      code == kExitPassed ? "PASSED" : "FAILED", xml_escaped(report.port), xml_escaped(report.compared),
      counts, total.cases, code);
  for (const std::string& finding : report.run_findings())
    out += "<p class=\"finding\">" + xml_escaped(finding) + "</p>";
  if (const std::string shares = report.certified_shares(); !shares.empty())
    out += "<p class=\"quiet\">" + xml_escaped(shares) + "</p>";
  if (const std::string hidden = report.hidden_stages(); !hidden.empty())
    out += "<p class=\"warning\">Warning: " + xml_escaped(hidden) + "</p>";
  return out + "</header>\n";
}

/// A count that filters the list of cases to what it counts.
std::string count_cell(std::int64_t count, Verdict verdict, std::string_view component) {
  if (count == 0) return "<td class=\"none\">0</td>";
  return fmt::format("<td><a href=\"#verdict={0}{1}\" aria-label=\"{2} cases with {0}\">{2}</a></td>",
                     name(verdict), component.empty() ? "" : fmt::format("&amp;component={}", component),
                     count);
}

std::string summary_row(const Summary& sum, std::string_view component,
                        const std::vector<Verdict>& verdicts) {
  std::string out = fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td>",
                                component.empty() ? "total" : component, sum.cases);
  for (const Verdict verdict : verdicts) out += count_cell(sum.count(verdict), verdict, component);
  return out + fmt::format("<td>{}</td><td class=\"where\">{}</td></tr>",
                           sum.worst ? ratio_text(sum.worst->verdict.ratio) : "&#8211;",
                           sum.worst ? xml_escaped(sum.worst_case->name() + " " + sum.worst->place()) : "");
}

std::string verdict_table(const Report& report, const Summary& total) {
  const std::vector<Verdict> verdicts = occurring(total);
  std::string out =
      "<section aria-labelledby=\"components\"><h2 id=\"components\">Components</h2><div class=\"scroll\" "
      "tabindex=\"0\" role=\"group\" aria-label=\"verdicts by component\"><table><thead><tr><th "
      "scope=\"col\">component</th><th scope=\"col\">cases</th>";
  for (const Verdict verdict : verdicts)
    out += fmt::format("<th scope=\"col\">{}</th>", html_verdict(verdict));
  out += "<th scope=\"col\">worst r</th><th scope=\"col\" class=\"where\">where</th></tr></thead><tbody>";
  for (const auto& [component, sum] : report.by_component())
    out += summary_row(sum, name(component), verdicts);
  return out + "</tbody><tfoot>" + summary_row(total, "", verdicts) + "</tfoot></table></div></section>\n";
}

std::string histograms(const Report& report) {
  const std::string charts = html_ratio_histograms(report);
  if (charts.empty()) return "";
  return "<section aria-labelledby=\"ratios\"><h2 id=\"ratios\">Ratios by stage</h2><p class=\"quiet\">r = "
         "|port "
         "&#8722; reference| / bound, the worst of each tensor; a tensor right of the line fails. Bars grow "
         "with "
         "the square root of the count.</p><div class=\"charts\">" +
         charts + "</div></section>\n";
}

std::string filters(const Report& report, const Summary& total) {
  std::string out =
      "<form id=\"filters\" role=\"search\" hidden><label>Search <input id=\"search\" type=\"search\" "
      "autocomplete=\"off\" spellcheck=\"false\" placeholder=\"name, dtype or bug ( / "
      ")\"></label><label>Component "
      "<select id=\"component\"><option value=\"\">all</option>";
  for (const auto& entry : report.by_component())
    out += fmt::format("<option>{}</option>", name(entry.first));
  out += "</select></label><div class=\"chips\" role=\"group\" aria-label=\"verdicts\">";
  for (const Verdict verdict : occurring(total))
    fmt::format_to(
        std::back_inserter(out),
        "<button type=\"button\" class=\"verdict v-{0}\" data-filter=\"{0}\" aria-pressed=\"false\">{0} "
        "{1}</button>",
        name(verdict), total.count(verdict));
  return out + "</div></form><p id=\"shown\" class=\"quiet\" role=\"status\"></p>";
}

std::string case_list(const Report& report, const Summary& total) {
  std::vector<const CaseReport*> cases;
  for (const CaseReport& one : report.cases) cases.push_back(&one);
  const auto rank = [](const CaseReport* one) {
    return std::ranges::find(kVerdicts, one->verdict) - kVerdicts.begin();
  };
  std::ranges::stable_sort(cases, {}, rank);
  std::string out = "<section aria-labelledby=\"cases\"><h2 id=\"cases\">Cases</h2>" +
                    filters(report, total) + "<ol id=\"list\">\n";
  // The first that has something to show is open.
  const auto to_open =
      std::ranges::find_if(cases, [](const CaseReport* one) { return one->evidence.has_value(); });
  for (const CaseReport* const& one : cases)
    out += html_case(*one, to_open != cases.end() && &one == &*to_open);
  return out + "</ol></section>\n";
}

std::string footer(const Report& report) {
  std::string out = fmt::format(
      "<footer><h2>Environment</h2><dl><div><dt>moeref</dt><dd>{}</dd></div><div><dt>port</dt><dd>{}</dd></"
      "div>",
      xml_escaped(report.moeref), xml_escaped(report.port));
  for (const auto& [title, text] : report.environment)
    out += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", xml_escaped(title), xml_escaped(text));
  return out + fmt::format("<div><dt>time</dt><dd>{:.1f} s</dd></div></dl></footer>\n", report.seconds);
}

}  // namespace

std::string html_text(const Report& report) {
  const Summary total = report.total();
  const std::string outcome = report.exit_code() == kExitPassed ? "PASSED" : "FAILED";
  return html_page(outcome + " - " + report.port + " - moeref",
                   header(report, total) + "<main>\n" + verdict_table(report, total) +
                       html_dtype_matrix(report) + html_reasons(report) + histograms(report) +
                       case_list(report, total) + "</main>\n" + footer(report));
}

}  // namespace moeref
