// What the ranks of one call did, as one outcome.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "reference_cpu/call/rank_shares.hpp"
#include "tools/ports/port.hpp"

namespace moeref {

/// Of the process of each rank; one outcome where a process makes the call alone.
using RankOutcomes = std::vector<PortOutcome>;

/// The worse verdict, and the line beside what was found before.
void add_finding(PortOutcome& outcome, Verdict verdict, const std::string& finding);

/// "rank 1", "ranks 0, 2".
std::string ranks_text(const std::vector<std::size_t>& ranks);

/// The worst verdict; the findings with their ranks, the worst first ("rank 1: crash: ..."), one for ranks
/// that say the same; refused where every rank refused, and one of its own accord. A rank that declines what
/// others compute is a failure. Without results.
PortOutcome joined(RankOutcomes outcomes);

/// joined() with the results put together: the parts of what the ranks share, and rank 0's of what every rank
/// writes as a whole; that another rank's is not the same, bit for bit (NaN is NaN), is a finding. A tensor
/// that not all ranks give is left out. `repeated` likewise.
PortOutcome together(const RankShares& shares, RankOutcomes outcomes);

}  // namespace moeref
