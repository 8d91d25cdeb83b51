#include "tools/report/report.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "tools/terminal/exit_code.hpp"

namespace moeref {

std::string_view name(Subject subject) { return subject == Subject::port ? "port" : "recorded"; }

std::string TensorFinding::place() const {
  if (verdict.index < 0 || verdict.index >= element_count(shape) || shape.empty()) return verdict.tensor;
  return verdict.tensor + coordinates(verdict.index, shape);
}

std::string CaseReport::name() const { return std::string(moeref::name(component)) + "__" + case_name; }

const TensorFinding* CaseReport::first_failure() const {
  for (const TensorFinding& tensor : tensors)
    if (tensor.verdict.verdict == Verdict::fail) return &tensor;
  return nullptr;
}

namespace {

bool of_port(const TensorFinding& tensor) { return tensor.subject == Subject::port; }

}  // namespace

bool CaseReport::judges_port() const { return std::ranges::any_of(tensors, of_port); }

const TensorFinding* CaseReport::worst() const {
  if (verdict == Verdict::not_supported) return nullptr;
  const bool port_alone = judges_port();
  const TensorFinding* worst = nullptr;
  for (const TensorFinding& tensor : tensors)
    if ((!port_alone || of_port(tensor)) && (!worst || tensor.verdict.ratio > worst->verdict.ratio))
      worst = &tensor;
  return worst;
}

void Summary::add(const CaseReport& report) {
  ++cases;
  ++verdicts[report.verdict];
  tokens += report.tokens;
  uncertified_tokens += report.uncertified_tokens;
  own_certified_tokens += report.own_certified_tokens;
  tied_tokens += report.tied_tokens;
  ambiguous_tokens += report.ambiguous_tokens;
  warnings += static_cast<std::int64_t>(report.warnings.size());
  forward_only += report.forward_only && report.verdict != Verdict::not_supported;
  const TensorFinding* candidate = report.worst();
  if (!candidate || (worst && candidate->verdict.ratio <= worst->verdict.ratio)) return;
  worst = candidate;
  worst_case = &report;
}

std::int64_t Summary::count(Verdict verdict) const {
  const auto it = verdicts.find(verdict);
  return it == verdicts.end() ? 0 : it->second;
}

Summary Report::total() const {
  Summary sum;
  for (const CaseReport& report : cases) sum.add(report);
  return sum;
}

Refusals Report::unsupported() const {
  std::map<std::string, std::int64_t> counts;
  for (const CaseReport& report : cases)
    if (report.verdict == Verdict::not_supported) ++counts[report.finding];
  return most_frequent_first(counts);
}

std::map<Component, Summary> Report::by_component() const {
  std::map<Component, Summary> sums;
  for (const CaseReport& report : cases) sums[report.component].add(report);
  return sums;
}

std::vector<std::string> Report::run_findings() const {
  // A case may hold a few ties; where they are many over all cases, ambiguity hides wrong selections.
  constexpr std::int64_t kFew = 20;
  std::vector<std::string> all = findings;
  const Summary sum = total();
  const auto share = kAmbiguityCeiling * static_cast<double>(sum.tokens);
  if (sum.ambiguous_tokens > kFew && static_cast<double>(sum.ambiguous_tokens) > share)
    all.push_back(fmt::format(
        "{} of {} tokens over all cases took other experts than the reference within the bounds: more than "
        "{} %",
        sum.ambiguous_tokens, sum.tokens, kAmbiguityCeiling * 100));
  if (sum.count(Verdict::pass) + sum.count(Verdict::ambiguous) + sum.count(Verdict::fail) == 0 &&
      sum.count(Verdict::crashed) + sum.count(Verdict::hung) == 0)
    all.push_back("no case ran, which proves nothing");
  return all;
}

std::string Report::run_finding() const {
  std::string line;
  for (const std::string& finding : run_findings()) line += (line.empty() ? "" : "; ") + finding;
  return line;
}

std::string Report::certified_shares() const {
  const Summary sum = total();
  if (sum.tokens == 0) return "";
  const auto share = [&](std::int64_t tokens) {
    return fmt::format("{} ({:.3g} %)", tokens,
                       100.0 * static_cast<double>(tokens) / static_cast<double>(sum.tokens));
  };
  return fmt::format(
      "choices of experts: {} certified by the reference's bounds, {} by own logits or scores, {} by neither",
      share(sum.tokens - sum.uncertified_tokens), share(sum.own_certified_tokens),
      share(sum.undecided_tokens()));
}

std::string Report::hidden_stages() const {
  constexpr std::int64_t kMany = 64;
  std::int64_t tokens = 0, undecided = 0;
  for (const CaseReport& one : cases) {
    if (one.experts < kMany || one.shows_scores || !one.judges_port()) continue;
    tokens += one.tokens;
    undecided += one.uncertified_tokens;
  }
  if (2 * undecided <= tokens) return "";
  return fmt::format(
      "with {} experts or more {} of {} tokens could be certified by nothing: the port hides its stages; let "
      "it "
      "show stages/logits (or stages/scores)",
      kMany, undecided, tokens);
}

int Report::exit_code() const {
  const Summary sum = total();
  if (sum.count(Verdict::crashed) + sum.count(Verdict::hung) > 0) return kExitCrashed;
  return sum.count(Verdict::fail) > 0 || !run_finding().empty() ? kExitFailed : kExitPassed;
}

}  // namespace moeref
