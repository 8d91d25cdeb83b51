#include "tools/report/html_case.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "tools/report/findings.hpp"
#include "tools/report/html_charts.hpp"
#include "tools/report/xml.hpp"

namespace moeref {
namespace {

std::string number_text(double value) { return fmt::format("{:.9g}", value); }

/// Names break after underscores.
std::string breakable(std::string_view text) {
  std::string out;
  for (const char c : xml_escaped(text)) out += c == '_' ? std::string("_<wbr>") : std::string(1, c);
  return out;
}

/// The elements around the worst one, line by line.
std::string slice_table(const Evidence& evidence) {
  if (evidence.around.empty()) return "";
  std::string out =
      "<h4>Around the first divergence: " + breakable(evidence.tensor) +
      "</h4><div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"values around the first "
      "divergence\"><table "
      "class=\"values\"><thead><tr><th>at</th><th>port</th><th>reference</th><th>bound</th>"
      "<th>r</th></tr></thead><tbody>";
  for (const EvidenceValue& at : evidence.around)
    fmt::format_to(std::back_inserter(out),
                   "<tr{}><th>{}</th><td>{}</td><td>{}</td><td>{:.2g}</td><td>{}</td></tr>",
                   at.index == evidence.worst ? " class=\"worst\""
                   : at.ratio() > 1.0         ? " class=\"wrong\""
                                              : "",
                   coordinates(at.index, evidence.shape), number_text(at.value), number_text(at.reference),
                   at.bound, ratio_text(at.ratio()));
  return out + "</tbody></table></div>";
}

/// The port's tensors, and those of the file where they are wrong themselves or alone.
std::string tensor_table(const CaseReport& report) {
  const auto shown = [&](const TensorFinding& tensor) {
    return tensor.subject == Subject::port || tensor.verdict.verdict != Verdict::pass;
  };
  if (std::ranges::none_of(report.tensors, shown)) return "";
  std::string out =
      "<h4>Tensors, in stage order</h4><div class=\"scroll\" tabindex=\"0\" role=\"group\" "
      "aria-label=\"tensors\">"
      "<table "
      "class=\"values\"><thead><tr><th>tensor</th><th>verdict</th><th>r</th><th>elements</th></tr></thead>"
      "<tbody>";
  for (const TensorFinding& tensor : report.tensors) {
    if (!shown(tensor)) continue;
    fmt::format_to(std::back_inserter(out), "<tr><th>{}{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
                   tensor.subject == Subject::recorded ? "recorded " : "", breakable(tensor.place()),
                   html_verdict(tensor.verdict.verdict), ratio_text(tensor.verdict.ratio),
                   tensor.verdict.elements);
  }
  return out + "</tbody></table></div>";
}

std::string facts(const CaseReport& report) {
  std::string out = "<dl>";
  const auto fact = [&](const char* title, const std::string& html) {
    if (!html.empty()) out += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", title, html);
  };
  fact("file", xml_escaped(report.file.string()));
  fact("dtype", xml_escaped(report.dtype));
  if (report.tokens > 0)
    fact("tokens", fmt::format("{} routed, {} uncertified, of these {} by own scores, {} tied, {} ambiguous",
                               report.tokens, report.uncertified_tokens, report.own_certified_tokens,
                               report.tied_tokens, report.ambiguous_tokens));
  std::string flags;
  for (const std::string& flag : report.flags) flags += (flags.empty() ? "" : ", ") + xml_escaped(flag);
  fact("catches", flags);
  if (const TensorFinding* worst = report.worst())
    fact("worst r", fmt::format("{} at {}", ratio_text(worst->verdict.ratio), xml_escaped(worst->place())));
  fact("waived", html_link(report.waiver));
  fact("time", fmt::format("{:.2f} s", report.seconds));
  return out + "</dl>";
}

std::string evidence_html(const CaseReport& report) {
  if (!report.evidence) return "";
  const Evidence& evidence = *report.evidence;
  std::string out = "<div class=\"evidence\">";
  const auto part = [&](const std::string& html) {
    if (!html.empty()) out += "<div>" + html + "</div>";
  };
  part(slice_table(evidence));
  part(html_ratio_map(evidence.ratios));
  part(html_load_map(evidence.routing));
  for (const RoutingEvidence& decision : evidence.routing) part(html_routing_map(decision));
  return out + "</div>";
}

/// What the search looks through besides the component and verdict.
std::string search_text(const CaseReport& report) {
  std::string text = report.name() + " " + report.dtype;
  for (const std::string& flag : report.flags) text += " " + flag;
  return text;
}

}  // namespace

std::string html_verdict(Verdict verdict) {
  return fmt::format("<span class=\"verdict v-{0}\">{0}</span>", name(verdict));
}

std::string html_link(std::string_view text) {
  std::string shown = xml_escaped(text);
  if (!text.starts_with("https://") && !text.starts_with("http://")) return shown;
  return fmt::format("<a href=\"{0}\" rel=\"noreferrer\">{0}</a>", shown);
}

std::string html_case(const CaseReport& report, bool open) {
  const TensorFinding* worst = report.worst();
  std::string out = fmt::format(
      "<li class=\"case\" data-verdict=\"{}\" data-component=\"{}\" "
      "data-text=\"{}\"><details{}><summary>{}<span "
      "class=\"case-name\">{}</span><span class=\"ratio\">{}</span></summary><div class=\"body\">",
      name(report.verdict), name(report.component), xml_escaped(search_text(report)), open ? " open" : "",
      html_verdict(report.verdict), breakable(report.name()),
      worst ? "r " + ratio_text(worst->verdict.ratio) : "");
  const bool told = report.verdict != Verdict::pass;
  if (told) {
    for (const std::string& line : finding_lines(report, 3))
      if (!line.starts_with("repeat: ")) out += "<p class=\"finding\">" + xml_escaped(line) + "</p>";
    if (report.verdict == Verdict::ambiguous)
      out += "<p class=\"finding\">" + xml_escaped(headline(report)) + "</p>";
  }
  for (const std::string& warning : report.warnings)
    out += "<p class=\"warning\">Warning: " + xml_escaped(warning) + "</p>";
  out += evidence_html(report);
  if (told) out += tensor_table(report);
  out += facts(report);
  out += "<h4>Repeat</h4><pre tabindex=\"0\"><code>" + xml_escaped(report.repeat) + "</code></pre>";
  return out + "</div></details></li>\n";
}

}  // namespace moeref
