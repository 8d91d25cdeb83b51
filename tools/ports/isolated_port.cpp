#include "tools/ports/isolated_port.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "moeref/tensor.hpp"
#include "tools/port_abi/call_tensors.hpp"

namespace moeref {
namespace {

/// Unwritten outputs are left out where that is allowed, and a finding where not.
void take_unwritten(PortOutcome& first, const PortOutcome& second, const std::vector<TensorSpec>& outputs) {
  std::string finding, more;
  for (const TensorSpec& spec : outputs) {
    const auto once = first.results.find(spec.name);
    const auto again = second.results.find(spec.name);
    if (once == first.results.end() || again == second.results.end()) continue;
    const auto [count, at] = unwritten(once->second, again->second);
    const std::int64_t all = once->second.size();
    if (count == 0) continue;
    if (count == all && !spec.required) {
      if (spec.name.starts_with("stages/"))
        first.warnings.push_back(fmt::format("the port declares {} and leaves it unwritten", spec.name));
      first.results.erase(once);
      continue;
    }
    if (finding.empty())
      finding =
          fmt::format("unwritten output: {} of {} elements of {} were left as they were, the first at {}",
                      count, all, spec.name, spec.shape.empty() ? "[]" : coordinates(at, spec.shape));
    else
      more += (more.empty() ? "" : ", ") + fmt::format("{} ({} of {})", spec.name, count, all);
  }
  if (!finding.empty()) add_finding(first, Verdict::fail, finding + (more.empty() ? "" : "; also " + more));
}

bool all_computed(const RankOutcomes& outcomes) {
  return std::ranges::none_of(outcomes, [](const PortOutcome& one) { return one.results.empty(); });
}

}  // namespace

RankShares IsolatedPort::shares(const Call& call) const {
  return RankShares(call, capabilities_.processes(call), port_outputs(call, capabilities_.stages));
}

RankOutcomes IsolatedPort::attempt_fresh(const RankShares& ranks, Poison poison) {
  end_processes();
  return attempt(ranks, poison);
}

std::optional<NamedTensors> IsolatedPort::run_fresh(const Call& call) {
  const RankShares ranks = shares(call);
  RankOutcomes outcomes = attempt_fresh(ranks, Poison::nan);
  if (!all_computed(outcomes)) return std::nullopt;
  return together(ranks, std::move(outcomes)).results;
}

/// The same call once more in fresh processes, where there are no earlier calls: with the same and with other
/// contents of the output buffers.
std::string IsolatedPort::cause_of_difference(const RankShares& ranks, std::size_t rank,
                                              const std::string& difference) {
  const auto fresh = [&](Poison poison) { return attempt_fresh(ranks, poison).at(rank).results; };
  const NamedTensors clean = fresh(Poison::nan), other = fresh(Poison::number);
  if (!differing_results(clean, other))
    return "depends on earlier calls: " + difference +
           " when the call is made twice, and the same in fresh processes";
  const NamedTensors again = fresh(Poison::nan);
  if (const auto unstable = differing_results(clean, again))
    return "not deterministic, though declared so: " + *unstable + " in two fresh processes";
  return "depends on buffer contents: " + difference +
         " when the output buffers hold NaN and when they hold numbers";
}

/// What a rank wrote the first and the second time.
void IsolatedPort::compare(const RankShares& ranks, std::size_t rank, PortOutcome& first,
                           PortOutcome& second) const {
  take_unwritten(first, second, ranks.outputs(rank));
  if (first.verdict == Verdict::pass && second.verdict != Verdict::pass)
    add_finding(first, second.verdict, "the second time: " + second.finding);
  for (auto it = second.results.begin(); it != second.results.end();)
    it = first.results.contains(it->first) ? std::next(it) : second.results.erase(it);
}

PortOutcome IsolatedPort::run(const std::filesystem::path&, const Call& call) {
  if (const auto lack = capabilities_.lack(call)) return {{}, Verdict::not_supported, *lack};
  const RankShares ranks = shares(call);
  RankOutcomes first = attempt(ranks, Poison::nan);
  if (!all_computed(first)) return joined(std::move(first));
  RankOutcomes second = attempt(ranks, Poison::number);
  if (!all_computed(second)) {
    for (PortOutcome& outcome : second) {
      if (!outcome.results.empty()) continue;
      // What it did the second time it did after having computed the same call.
      if (outcome.verdict == Verdict::not_supported) outcome.verdict = Verdict::fail;
      outcome.finding = "depends on earlier calls: the same call made a second time: " + outcome.finding;
    }
    return joined(std::move(second));
  }
  bool well = true;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    compare(ranks, r, first[r], second[r]);
    well = well && first[r].verdict == Verdict::pass;
  }
  // With a finding, what else differs differs because of that.
  for (std::size_t r = 0; well && r < ranks.size(); ++r) {
    const auto difference = differing_results(first[r].results, second[r].results);
    if (!difference) continue;
    if (capabilities_.deterministic) {
      add_finding(first[r], Verdict::fail, cause_of_difference(ranks, r, *difference));
      break;
    }
    first[r].repeated = std::move(second[r].results);
  }
  return together(ranks, std::move(first));
}

}  // namespace moeref
