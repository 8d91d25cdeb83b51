#include "tools/report/html_groups.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/report/html_case.hpp"
#include "tools/report/xml.hpp"

namespace moeref {
namespace {

bool told(Verdict verdict) { return verdict != Verdict::pass && verdict != Verdict::ambiguous; }

/// Text in the fragment of an address.
std::string percent_encoded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.')
      out += c;
    else
      out += fmt::format("%{:02X}", byte);
  }
  return out;
}

std::string case_link(const CaseReport& report) {
  return fmt::format("<a href=\"#q={}&amp;component={}\">{}</a>", percent_encoded(report.name()),
                     name(report.component), xml_escaped(report.name()));
}

}  // namespace

std::string html_reason(const CaseReport& report) {
  if (!told(report.verdict)) return "";
  const TensorFinding* first = report.first_failure();
  const std::string text = first ? first->verdict.tensor : report.finding;
  return text.substr(0, text.find('\n'));
}

std::string html_reasons(const Report& report) {
  std::map<std::pair<Verdict, std::string>, std::vector<const CaseReport*>> groups;
  for (const CaseReport& one : report.cases)
    if (told(one.verdict)) groups[{one.verdict, html_reason(one)}].push_back(&one);
  if (groups.empty()) return "";
  std::vector<std::pair<std::pair<Verdict, std::string>, std::vector<const CaseReport*>>> rows(groups.begin(),
                                                                                               groups.end());
  std::ranges::stable_sort(rows, [](const auto& a, const auto& b) {
    // Failures before what is not supported; then the most frequent.
    const bool refused_a = a.first.first == Verdict::not_supported;
    const bool refused_b = b.first.first == Verdict::not_supported;
    return refused_a != refused_b ? refused_b : a.second.size() > b.second.size();
  });
  std::string out =
      "<section aria-labelledby=\"reasons\"><h2 id=\"reasons\">Reasons</h2><ul class=\"reasons\">";
  for (const auto& [reason, cases] : rows) {
    out += fmt::format("<li><details><summary>{} <b>{}</b> {}</summary><p>", html_verdict(reason.first),
                       cases.size(), xml_escaped(reason.second));
    for (std::size_t i = 0; i < cases.size(); ++i) out += (i > 0 ? ", " : "") + case_link(*cases[i]);
    out += "</p></details></li>";
  }
  return out + "</ul></section>\n";
}

std::string html_dtype_matrix(const Report& report) {
  struct Counts {
    std::int64_t judged = 0, passed = 0;
  };
  std::set<std::string> dtypes;
  std::map<Component, std::map<std::string, Counts>> counts;
  for (const CaseReport& one : report.cases) {
    dtypes.insert(one.dtype);
    if (one.verdict == Verdict::not_supported) continue;
    Counts& cell = counts[one.component][one.dtype];
    ++cell.judged;
    cell.passed += told(one.verdict) ? 0 : 1;
  }
  if (dtypes.size() < 2 || counts.empty()) return "";
  std::string out =
      "<section aria-labelledby=\"dtypes\"><h2 id=\"dtypes\">Components and dtypes</h2><div class=\"scroll\" "
      "tabindex=\"0\" role=\"group\" aria-label=\"passed of judged cases by component and "
      "dtype\"><table><thead><tr>"
      "<th scope=\"col\">passed of judged</th>";
  for (const std::string& dtype : dtypes) out += "<th scope=\"col\">" + xml_escaped(dtype) + "</th>";
  out += "</tr></thead><tbody>";
  for (const auto& [component, row] : counts) {
    out += fmt::format("<tr><th scope=\"row\">{}</th>", name(component));
    for (const std::string& dtype : dtypes) {
      const auto cell = row.find(dtype);
      if (cell == row.end())
        out += "<td class=\"none\">&#8211;</td>";
      else
        out += fmt::format("<td><a href=\"#q={}&amp;component={}\">{} of {}</a></td>", percent_encoded(dtype),
                           name(component), cell->second.passed, cell->second.judged);
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div></section>\n";
}

}  // namespace moeref
