#include "tools/report/table.hpp"

#include <fmt/core.h>

#include <array>

#include "tools/report/findings.hpp"
#include "tools/terminal/columns.hpp"
#include "tools/terminal/exit_code.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

constexpr std::array<Verdict, 7> kColumns{Verdict::pass,          Verdict::ambiguous, Verdict::waived,
                                          Verdict::not_supported, Verdict::fail,      Verdict::hung,
                                          Verdict::crashed};
constexpr std::size_t kFailuresOfCase = 3;
constexpr std::size_t kCasesShown = 20;
constexpr std::size_t kWarningsShown = 10;

Colour colour_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::pass:
      return Colour::green;
    case Verdict::ambiguous:
    case Verdict::waived:
    case Verdict::not_supported:
      return Colour::yellow;
    default:
      return Colour::red;
  }
}

Cell number(std::int64_t value) { return {std::to_string(value), Colour::plain, true}; }

Row row_of(const std::string& title, const Summary& sum, const std::vector<Verdict>& verdicts) {
  Row row{{title}, number(sum.cases)};
  for (const Verdict verdict : verdicts) {
    const std::int64_t count = sum.count(verdict);
    row.push_back(count == 0 ? Cell{".", Colour::faint, true}
                             : Cell{std::to_string(count), colour_of(verdict), true});
  }
  row.push_back({sum.worst ? ratio_text(sum.worst->verdict.ratio) : ".", Colour::plain, true});
  for (const std::int64_t tokens :
       {sum.tokens, sum.uncertified_tokens, sum.tied_tokens, sum.ambiguous_tokens})
    row.push_back(number(tokens));
  row.push_back({sum.worst ? sum.worst_case->name() + " " + sum.worst->place() : "."});
  return row;
}

std::string component_table(const Report& report, bool colours) {
  const Summary total = report.total();
  std::vector<Verdict> verdicts;
  for (const Verdict verdict : kColumns)
    if (verdict == Verdict::pass || verdict == Verdict::fail || total.count(verdict) > 0)
      verdicts.push_back(verdict);
  Row head{{"component", Colour::bold}, {"cases", Colour::bold, true}};
  for (const Verdict verdict : verdicts) head.push_back({std::string(name(verdict)), Colour::bold, true});
  for (const char* title : {"worst r", "tokens", "uncertified", "tied", "ambiguous"})
    head.push_back({title, Colour::bold, true});
  head.push_back({"where r is worst", Colour::bold});
  std::vector<Row> rows{head};
  for (const auto& [component, sum] : report.by_component())
    rows.push_back(row_of(std::string(name(component)), sum, verdicts));
  rows.push_back(row_of("total", total, verdicts));
  return columns(rows, colours);
}

bool is_trouble(const CaseReport& one) {
  return one.verdict == Verdict::fail || one.verdict == Verdict::hung || one.verdict == Verdict::crashed;
}

std::string failures(const Report& report, bool colours) {
  std::string out;
  std::size_t shown = 0, hidden = 0;
  for (const CaseReport& one : report.cases) {
    if (!is_trouble(one)) continue;
    if (shown++ >= kCasesShown) {
      ++hidden;
      continue;
    }
    out += fmt::format("\n{} {}\n", coloured(name(one.verdict), colour_of(one.verdict), colours),
                       one_line(one.file.string()));
    for (const std::string& line : finding_lines(one, kFailuresOfCase)) out += "  " + line + "\n";
  }
  if (hidden > 0) out += fmt::format("\n{} more cases failed; --json lists them all.\n", hidden);
  return out;
}

std::string warnings(const Report& report, bool colours) {
  std::string out;
  std::size_t shown = 0;
  for (const CaseReport& one : report.cases)
    for (const std::string& warning : one.warnings)
      if (shown++ < kWarningsShown)
        out += fmt::format("{} {}: {}\n", coloured("warning", Colour::yellow, colours), one.name(),
                           one_line(warning));
  if (const std::string hidden = report.hidden_stages(); !hidden.empty())
    out += fmt::format("{} {}\n", coloured("warning", Colour::yellow, colours), hidden);
  if (shown > kWarningsShown)
    out += fmt::format("{} more warnings; --json lists them all.\n", shown - kWarningsShown);
  return out.empty() ? out : "\n" + out;
}

/// How far the run is from the ceiling on ambiguous tokens; nothing where no experts were chosen.
std::string ambiguity_line(const Report& report) {
  const Summary total = report.total();
  if (total.tokens == 0) return "";
  return fmt::format(
      "{} of {} tokens ({:.2g} %) took other experts within the error bounds; the ceiling is {} %\n",
      total.ambiguous_tokens, total.tokens,
      100.0 * static_cast<double>(total.ambiguous_tokens) / static_cast<double>(total.tokens),
      100.0 * kAmbiguityCeiling);
}

std::string certified_line(const Report& report) {
  const std::string shares = report.certified_shares();
  return shares.empty() ? "" : shares + "\n";
}

/// What was left out, and why.
std::string left_out(const Report& report) {
  std::string out;
  if (const std::int64_t count = report.total().forward_only; count > 0)
    out += fmt::format("{} of the cases have gradients and were judged forward only\n", count);
  return out + refusal_lines(report.unsupported());
}

std::string last_line(const Report& report, bool colours) {
  const Summary total = report.total();
  const int code = report.exit_code();
  const bool passed = code == kExitPassed;
  std::string text;
  for (const Verdict verdict : kColumns)
    if (const std::int64_t count = total.count(verdict); count > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, name(verdict));
  std::string out;
  for (const std::string& finding : report.run_findings())
    out += fmt::format("{} {}\n", coloured("run", Colour::red, colours), one_line(finding));
  return out +
         fmt::format("{} {} of {} cases passed ({}) in {:.1f} s\n",
                     coloured(passed ? "PASSED" : "FAILED", passed ? Colour::green : Colour::red, colours),
                     total.count(Verdict::pass) + total.count(Verdict::ambiguous), total.cases, text,
                     report.seconds);
}

}  // namespace

std::string table_text(const Report& report, const TableOptions& options) {
  std::string out;
  if (!options.quiet) {
    out += fmt::format("moeref {}, port {}: {}\n\n", report.moeref, one_line(report.port), report.compared);
    out += component_table(report, options.colours) + ambiguity_line(report) + certified_line(report) +
           left_out(report);
  }
  out += failures(report, options.colours);
  if (!options.quiet) out += warnings(report, options.colours) + "\n";
  return out + last_line(report, options.colours);
}

}  // namespace moeref
