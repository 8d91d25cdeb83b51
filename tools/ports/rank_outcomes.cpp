#include "tools/ports/rank_outcomes.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "moeref/tensor.hpp"
#include "tools/ports/tensor_difference.hpp"

namespace moeref {
namespace {

bool declined(const PortOutcome& outcome) { return outcome.verdict == Verdict::not_supported; }

struct RankFinding {
  Verdict verdict;
  std::string text;
  std::vector<std::size_t> ranks;
};

/// In the order of the ranks, the worst first.
std::vector<RankFinding> findings_of(const RankOutcomes& outcomes) {
  std::vector<RankFinding> out;
  for (std::size_t r = 0; r < outcomes.size(); ++r) {
    const PortOutcome& one = outcomes[r];
    if (one.finding.empty()) continue;
    const auto same = std::ranges::find_if(
        out, [&](const RankFinding& f) { return f.verdict == one.verdict && f.text == one.finding; });
    if (same == out.end())
      out.push_back({one.verdict, one.finding, {r}});
    else
      same->ranks.push_back(r);
  }
  std::ranges::stable_sort(out, [](const RankFinding& a, const RankFinding& b) {
    return a.verdict != b.verdict && worse(a.verdict, b.verdict) == a.verdict;
  });
  return out;
}

/// The tensor of the whole call; null, with the finding, where it is not.
std::optional<Tensor> put_together(const RankShares& shares, const TensorSpec& spec,
                                   std::vector<NamedTensors*> parts, std::string& disagreement) {
  const auto disagree = [&](const std::string& text) {
    if (disagreement.empty()) disagreement = fmt::format("ranks disagree: {}{}", spec.name, text);
  };
  const auto lacks = [&](const NamedTensors* part) { return !part->contains(spec.name); };
  const auto missing = std::ranges::find_if(parts, lacks);
  if (missing != parts.end()) {
    // A rank without a row has nothing to write.
    const auto given = std::ranges::find_if(
        parts, [&](const NamedTensors* p) { return !lacks(p) && p->at(spec.name).size() > 0; });
    if (given != parts.end())
      disagree(fmt::format(", which rank {} writes and rank {} does not", given - parts.begin(),
                           missing - parts.begin()));
    return std::nullopt;
  }
  Tensor& first = parts.front()->at(spec.name);
  if (division(shares.whole(), spec.name) == Division::whole) {
    for (std::size_t r = 1; r < parts.size(); ++r) {
      const Tensor& other = parts[r]->at(spec.name);
      if (const auto at = first_difference(first, other))
        disagree(fmt::format("{}, rank 0 has {:.9g}, rank {} has {:.9g}",
                             spec.shape.empty() ? "" : coordinates(*at, spec.shape), first[*at], r,
                             other[*at]));
    }
    return std::move(first);
  }
  Tensor all(first.dtype(), spec.shape);
  auto to = all.bytes().begin();
  for (const NamedTensors* part : parts) to = std::ranges::copy(part->at(spec.name).bytes(), to).out;
  return all;
}

NamedTensors put_together(const RankShares& shares, RankOutcomes& outcomes, NamedTensors PortOutcome::*which,
                          std::string& disagreement) {
  std::vector<NamedTensors*> parts;
  for (PortOutcome& outcome : outcomes) parts.push_back(&(outcome.*which));
  NamedTensors out;
  for (const TensorSpec& spec : shares.whole_outputs())
    if (auto tensor = put_together(shares, spec, parts, disagreement))
      out.emplace(spec.name, *std::move(tensor));
  return out;
}

}  // namespace

void add_finding(PortOutcome& outcome, Verdict verdict, const std::string& finding) {
  outcome.verdict = worse(outcome.verdict, verdict);
  outcome.finding += (outcome.finding.empty() ? "" : "; ") + finding;
}

std::string ranks_text(const std::vector<std::size_t>& ranks) {
  std::string out;
  for (const std::size_t rank : ranks) out += (out.empty() ? "" : ", ") + std::to_string(rank);
  return (ranks.size() == 1 ? "rank " : "ranks ") + out;
}

PortOutcome joined(RankOutcomes outcomes) {
  if (outcomes.size() == 1) return std::move(outcomes.front());
  PortOutcome out;
  const auto no = std::ranges::count_if(outcomes, declined);
  for (const PortOutcome& one : outcomes) {
    out.verdict = worse(out.verdict, one.verdict);
    for (const std::string& warning : one.warnings)
      if (std::ranges::find(out.warnings, warning) == out.warnings.end()) out.warnings.push_back(warning);
  }
  // Whether there is such a component or dtype is the same for all of them.
  const bool split = no > 0 && no < static_cast<std::ptrdiff_t>(outcomes.size());
  if (split) out.verdict = worse(out.verdict, Verdict::fail);
  const auto refused = [](const PortOutcome& one) { return one.refused && !one.lost_ranks; };
  out.refused = std::ranges::any_of(outcomes, refused) &&
                std::ranges::all_of(outcomes, [](const PortOutcome& one) { return one.refused; });
  for (const RankFinding& finding : findings_of(outcomes)) {
    std::string who = ranks_text(finding.ranks) + ": ";
    if (finding.ranks.size() == outcomes.size())
      who = finding.verdict == Verdict::not_supported ? "" : "every rank: ";
    else if (finding.verdict == Verdict::not_supported)
      who += "not supported, as others do not say: ";
    out.finding += (out.finding.empty() ? "" : "; ") + who + finding.text;
  }
  return out;
}

PortOutcome together(const RankShares& shares, RankOutcomes outcomes) {
  if (outcomes.size() == 1) return joined(std::move(outcomes));
  std::string disagreement;
  const bool repeated =
      std::ranges::any_of(outcomes, [](const PortOutcome& o) { return !o.repeated.empty(); });
  for (PortOutcome& outcome : outcomes)
    if (repeated && outcome.repeated.empty()) outcome.repeated = outcome.results;
  NamedTensors results = put_together(shares, outcomes, &PortOutcome::results, disagreement), again;
  if (repeated) again = put_together(shares, outcomes, &PortOutcome::repeated, disagreement);
  PortOutcome out = joined(std::move(outcomes));
  out.results = std::move(results);
  out.repeated = std::move(again);
  if (!disagreement.empty()) add_finding(out, Verdict::fail, disagreement);
  return out;
}

}  // namespace moeref
