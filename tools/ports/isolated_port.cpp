#include "ports/isolated_port.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "report/report.hpp"

namespace moeref {
namespace {

bool same_bits(double a, double b) {
  return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b);
}

/// Elements that hold in both calls what the buffer held before.
std::vector<bool> unwritten(const Tensor& once, const Tensor& again) {
  std::vector<bool> out = untouched(once, Poison::nan);
  const std::vector<bool> still = untouched(again, Poison::number);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = out[i] && still[i];
  return out;
}

/// Unwritten outputs are left out where that is allowed, and a finding where not.
void take_unwritten(PortOutcome& first, const PortOutcome& second, const std::vector<TensorSpec>& outputs) {
  std::string finding, more;
  for (const TensorSpec& spec : outputs) {
    const auto once = first.results.find(spec.name);
    const auto again = second.results.find(spec.name);
    if (once == first.results.end() || again == second.results.end()) continue;
    const std::vector<bool> left = unwritten(once->second, again->second);
    const std::int64_t count = std::ranges::count(left, true), all = once->second.size();
    if (count == 0) continue;
    if (count == all && !spec.required) {
      if (spec.name.starts_with("stages/"))
        first.warnings.push_back(fmt::format("the port declares {} and leaves it unwritten", spec.name));
      first.results.erase(once);
      continue;
    }
    const std::int64_t at = std::ranges::find(left, true) - left.begin();
    if (finding.empty())
      finding =
          fmt::format("unwritten output: {} of {} elements of {} were left as they were, the first at {}",
                      count, all, spec.name, spec.shape.empty() ? "[]" : coordinates(at, spec.shape));
    else
      more += (more.empty() ? "" : ", ") + fmt::format("{} ({} of {})", spec.name, count, all);
  }
  if (!finding.empty()) add_finding(first, Verdict::fail, finding + (more.empty() ? "" : "; also " + more));
}

}  // namespace

void add_finding(PortOutcome& outcome, Verdict verdict, const std::string& finding) {
  outcome.verdict = worse(outcome.verdict, verdict);
  outcome.finding += (outcome.finding.empty() ? "" : "; ") + finding;
}

std::optional<std::string> differing_results(const NamedTensors& a, const NamedTensors& b) {
  for (const auto& [name, mine] : a) {
    const auto it = b.find(name);
    if (it == b.end()) return name + " is there and is not";
    const Tensor& other = it->second;
    if (mine.shape() != other.shape())
      return fmt::format("{} has shape {} and {}", name, to_string(mine.shape()), to_string(other.shape()));
    for (std::int64_t i = 0; i < mine.size(); ++i)
      if (!same_bits(mine[i], other[i]))
        return fmt::format("{}{} is {:.9g} and {:.9g}", name, coordinates(i, mine.shape()), mine[i],
                           other[i]);
  }
  for (const auto& [name, tensor] : b)
    if (!a.contains(name)) return name + " is there and is not";
  return std::nullopt;
}

PortOutcome IsolatedPort::attempt_fresh(const Call& call, Poison poison) {
  end_process();
  return attempt(call, poison);
}

std::optional<NamedTensors> IsolatedPort::run_fresh(const Call& call) {
  PortOutcome outcome = attempt_fresh(call, Poison::nan);
  if (outcome.results.empty()) return std::nullopt;
  return std::move(outcome.results);
}

/// The same call once more in fresh processes, where there are no earlier calls: with the same and with other
/// contents of the output buffers.
std::string IsolatedPort::cause_of_difference(const Call& call, const std::string& difference) {
  const PortOutcome clean = attempt_fresh(call, Poison::nan), other = attempt_fresh(call, Poison::number);
  if (!differing_results(clean.results, other.results))
    return "depends on earlier calls: " + difference +
           " when the call is made twice, and the same in fresh processes";
  const PortOutcome again = attempt_fresh(call, Poison::nan);
  if (const auto unstable = differing_results(clean.results, again.results))
    return "not deterministic, though declared so: " + *unstable + " in two fresh processes";
  return "depends on buffer contents: " + difference +
         " when the output buffers hold NaN and when they hold numbers";
}

PortOutcome IsolatedPort::run(const std::filesystem::path&, const Call& call) {
  if (const auto lack = capabilities_.lack(call)) return {{}, Verdict::not_supported, *lack};
  PortOutcome first = attempt(call, Poison::nan);
  if (first.results.empty()) return first;
  PortOutcome second = attempt(call, Poison::number);
  if (second.results.empty()) {
    // What it did the second time it did after having computed the same call.
    if (second.verdict == Verdict::not_supported) second.verdict = Verdict::fail;
    second.finding = "depends on earlier calls: the same call made a second time: " + second.finding;
    return second;
  }
  const std::vector<TensorSpec> outputs = port_outputs(call, capabilities_.stages);
  const NamedTensors first_results = first.results, second_results = second.results;
  take_unwritten(first, second, outputs);
  if (first.verdict == Verdict::pass && second.verdict != Verdict::pass)
    add_finding(first, second.verdict, "the second time: " + second.finding);
  if (first.verdict != Verdict::pass) return first;  // what else differs, differs because of that

  for (auto it = second.results.begin(); it != second.results.end();)
    it = first.results.contains(it->first) ? std::next(it) : second.results.erase(it);
  const auto difference = differing_results(first.results, second.results);
  if (!difference) return first;
  if (capabilities_.deterministic)
    add_finding(first, Verdict::fail, cause_of_difference(call, *difference));
  else
    first.repeated = std::move(second.results);
  return first;
}

}  // namespace moeref
