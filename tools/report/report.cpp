#include "report/report.hpp"

#include "exit_code.hpp"

namespace moeref {

std::string_view name(Subject subject) { return subject == Subject::port ? "port" : "recorded"; }

std::string coordinates(std::int64_t index, const Shape& shape) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] <= 0) return "";
    at[axis] = index % shape[axis];
    index /= shape[axis];
  }
  return to_string(at);
}

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

const TensorFinding* CaseReport::worst() const {
  const TensorFinding* worst = nullptr;
  for (const TensorFinding& tensor : tensors)
    if (!worst || tensor.verdict.ratio > worst->verdict.ratio) worst = &tensor;
  return worst;
}

void Summary::add(const CaseReport& report) {
  ++cases;
  ++verdicts[report.verdict];
  tokens += report.tokens;
  uncertified_tokens += report.uncertified_tokens;
  ambiguous_tokens += report.ambiguous_tokens;
  warnings += static_cast<std::int64_t>(report.warnings.size());
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

std::map<Component, Summary> Report::by_component() const {
  std::map<Component, Summary> sums;
  for (const CaseReport& report : cases) sums[report.component].add(report);
  return sums;
}

int Report::exit_code() const {
  const Summary sum = total();
  if (sum.count(Verdict::crashed) + sum.count(Verdict::hung) > 0) return kExitCrashed;
  if (sum.count(Verdict::fail) > 0) return kExitFailed;
  // Cases that the port does not support, or that are waived, prove nothing.
  const bool ran = sum.count(Verdict::pass) + sum.count(Verdict::ambiguous) > 0;
  return ran ? kExitPassed : kExitFailed;
}

}  // namespace moeref
