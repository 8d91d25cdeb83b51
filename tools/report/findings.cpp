#include "tools/report/findings.hpp"

#include <fmt/core.h>

#include <utility>

#include "golden/catalogue/recipes.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

constexpr std::size_t kBugsDescribed = 2;  // the others are named alone

}  // namespace

std::string ratio_text(double ratio) { return fmt::format("{:.3g}", ratio); }

std::string describe(const TensorFinding& finding) {
  const TensorVerdict& v = finding.verdict;
  std::string text = fmt::format("{} {}", name(finding.subject), finding.place());
  // A wrong choice of experts is no wrong number: its finding says it all.
  const bool number = v.index >= 0 && v.value != v.reference;
  if (number) {
    // Enough digits to tell a float32 from its neighbour; more when that would show two values as the same.
    const std::string value = fmt::format("{:.9g}", v.value), reference = fmt::format("{:.9g}", v.reference);
    if (value == reference && v.value != v.reference)
      text += fmt::format(" = {:.17g}, reference {:.17g}", v.value, v.reference);
    else
      text += fmt::format(" = {}, reference {}", value, reference);
    text += fmt::format(", bound {:.3g}, r = {}", v.bound, ratio_text(v.ratio));
  }
  if (!v.finding.empty()) text += (number ? "; " : ": ") + one_line(v.finding);
  return text;
}

std::string headline(const CaseReport& report) {
  std::string text(name(report.verdict));
  if (!report.waiver.empty()) text += " (" + one_line(report.waiver) + ")";
  if (!report.finding.empty()) return text + ": " + one_line(report.finding);
  if (const TensorFinding* first = report.first_failure()) return text + ": " + describe(*first);
  if (report.ambiguous_tokens > 0)
    text += fmt::format(": {} of {} tokens took other experts within the error bounds",
                        report.ambiguous_tokens, report.tokens);
  return text;
}

std::string about(const CaseReport& report) {
  std::string bugs;
  for (std::size_t i = 0; i < report.flags.size(); ++i) {
    const BugNote* bug = i < kBugsDescribed ? find_bug(report.flags[i]) : nullptr;
    std::string wrong = bug ? bug->wrong : "";
    if (wrong.ends_with('.')) wrong.pop_back();
    bugs += (i == 0 ? "Catches " : ", ") + report.flags[i] + (bug ? " (" + wrong + ")" : "");
  }
  return one_line(report.note + (report.note.empty() || bugs.empty() ? "" : " ") + bugs);
}

std::vector<std::string> finding_lines(const CaseReport& report, std::size_t limit) {
  std::vector<std::string> lines;
  if (!report.finding.empty()) lines.push_back(one_line(report.finding));
  std::size_t more = 0;
  std::string names;
  std::size_t shown = 0;
  for (const TensorFinding& finding : report.tensors) {
    if (finding.verdict.verdict != Verdict::fail) continue;
    if (shown < limit) {
      lines.push_back(describe(finding));
      ++shown;
    } else {
      names += (more++ == 0 ? "" : ", ") + finding.verdict.tensor;
    }
  }
  if (more > 0) lines.push_back(fmt::format("and {} more: {}", more, names));
  if (!report.follows.empty()) lines.push_back("passes as " + report.follows);
  const bool told = report.verdict == Verdict::fail || report.verdict == Verdict::hung ||
                    report.verdict == Verdict::crashed;
  if (std::string text = about(report); told && !text.empty()) lines.push_back("about: " + std::move(text));
  lines.push_back("repeat: " + report.repeat);
  return lines;
}

}  // namespace moeref
