// The page of a run of the mutants; style and filters are those of the report on a port (html_page.*).
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <set>

#include "tools/report/html_page.hpp"
#include "tools/report/mutant_report.hpp"
#include "tools/report/xml.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

/// What needs a look comes first.
constexpr std::array kMutantOrder{MutantStatus::survived, MutantStatus::killed, MutantStatus::equivalent,
                                  MutantStatus::not_shown, MutantStatus::not_expressible};

std::string badge(MutantStatus status) {
  return fmt::format("<span class=\"verdict v-{0}\">{0}</span>", name(status));
}

std::string components_of(const Mutant& mutant) {
  std::string out;
  for (const Component c : mutant.components) out += (out.empty() ? "" : ", ") + std::string(name(c));
  return out;
}

int with_status(const MutantReport& report, MutantStatus status) {
  return static_cast<int>(std::ranges::count_if(
      report.trials, [&](const Trial& trial) { return report.status(trial) == status; }));
}

std::string mutants_header(const MutantReport& report) {
  const MutantScore score = report.score();
  const bool passed = report.exit_code() == kExitPassed;
  std::string out = fmt::format(
      "<header><p class=\"tool\">moeref {} mutants</p><h1><span class=\"outcome {}\">{}</span> killed {} of "
      "{}, "
      "{} proven equivalent</h1><p>{}{} golden files, {} cases per property, seed {}; {} mutants are killed "
      "by "
      "golden files, {} by properties; {} of {} failing verdicts name the right tensor first.</p><ul "
      "class=\"counts\" aria-label=\"totals\">",
      xml_escaped(report.moeref), passed ? "passed" : "failed", passed ? "PASSED" : "FAILED", score.killed,
      score.run, score.equivalent, report.dtype.empty() ? "" : "As ports of " + report.dtype + ": ",
      report.files, report.cases, report.seed, score.by_goldens, score.by_properties, score.rightly_named,
      score.failing);
  for (const MutantStatus status : kMutantOrder)
    if (const int count = with_status(report, status); count > 0)
      out += fmt::format("<li>{} <b>{}</b></li>", badge(status), count);
  return out + "</ul></header>\n";
}

std::string mutants_filters(const MutantReport& report) {
  std::set<std::string> components;
  for (const Trial& trial : report.trials) components.insert(components_of(*trial.mutant));
  std::string out =
      "<form id=\"filters\" role=\"search\" hidden><label>Search <input id=\"search\" type=\"search\" "
      "autocomplete=\"off\" spellcheck=\"false\" placeholder=\"name, bug or property ( / )\"></label>"
      "<label>Component <select id=\"component\"><option value=\"\">all</option>";
  for (const std::string& one : components) out += "<option>" + one + "</option>";
  out += "</select></label><div class=\"chips\" role=\"group\" aria-label=\"outcomes\">";
  for (const MutantStatus status : kMutantOrder)
    if (const int count = with_status(report, status); count > 0)
      out += fmt::format(
          "<button type=\"button\" class=\"verdict v-{0}\" data-filter=\"{0}\" aria-pressed=\"false\">{0} "
          "{1}</button>",
          name(status), count);
  return out + "</div></form><p id=\"shown\" class=\"quiet\" role=\"status\" data-what=\"mutants\"></p>";
}

std::string fact(std::string_view title, std::string_view text) {
  if (text.empty()) return "";
  return fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", title, xml_escaped(text));
}

std::string named_tensors(const Trial& trial) {
  std::string out;
  for (const auto& [tensor, count] : trial.first_named)
    out += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>", xml_escaped(tensor), count,
                       names_rightly(*trial.mutant, tensor) ? "yes" : "no");
  if (out.empty()) return "";
  return "<h4>Named first by the verdict</h4><div class=\"scroll\"><table><thead><tr><th "
         "scope=\"col\">tensor</th><th scope=\"col\">files</th><th "
         "scope=\"col\">right</th></tr></thead><tbody>" +
         out + "</tbody></table></div>";
}

std::string mutant_item(const MutantReport& report, const Trial& trial) {
  const Mutant& mutant = *trial.mutant;
  const MutantStatus status = report.status(trial);
  const std::string components = components_of(mutant), killers = killing_properties(trial);
  std::string out = fmt::format(
      "<li class=\"case\" data-verdict=\"{0}\" data-component=\"{1}\" data-text=\"{2}\"><details><summary>{3}"
      "<span class=\"case-name\">{4}</span><span class=\"ratio\">{5}</span></summary><div "
      "class=\"body\"><p>{6}"
      "</p>",
      name(status), components,
      xml_escaped(fmt::format("{} {} {} {}", mutant.name, mutant.bug, mutant.source, killers)), badge(status),
      xml_escaped(mutant.name),
      trial.judged > 0 ? fmt::format("{} of {} golden files", trial.failing, trial.judged) : "",
      xml_escaped(mutant.does));
  out += "<dl>" + fact("bug", mutant.bug) + fact("public", mutant.source) + fact("in", components) +
         fact("shows", mutant.shows) + fact("not run", mutant.cannot) + fact("proof", mutant.equivalent) +
         "</dl>" + named_tensors(trial);
  for (const PropertyKill& kill : trial.kills)
    out += fmt::format("<h4>{}</h4><p class=\"finding\">{}</p><pre tabindex=\"0\"><code>{}</code></pre>",
                       kill.property->name, xml_escaped(kill.finding), xml_escaped(kill.line));
  return out + "</div></details></li>\n";
}

}  // namespace

std::string mutants_html(const MutantReport& report) {
  std::string list = "<section aria-labelledby=\"cases\"><h2 id=\"cases\">Mutants</h2>" +
                     mutants_filters(report) + "<ol id=\"list\">\n";
  for (const MutantStatus status : kMutantOrder)
    for (const Trial& trial : report.trials)
      if (report.status(trial) == status) list += mutant_item(report, trial);
  return html_page("mutants - moeref",
                   mutants_header(report) + "<main>\n" + list + "</ol></section>\n</main>\n");
}

}  // namespace moeref
