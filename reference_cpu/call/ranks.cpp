#include "reference_cpu/call/ranks.hpp"

#include <string>

#include "moeref/error.hpp"

namespace moeref {

std::vector<std::int64_t> rank_offsets(std::int64_t ranks, const std::vector<std::int64_t>& tokens_per_rank,
                                       std::int64_t tokens) {
  std::vector<std::int64_t> offsets{0};
  const bool given = ranks > 1 && !tokens_per_rank.empty();
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t even = tokens / ranks + (r < tokens % ranks ? 1 : 0);
    offsets.push_back(offsets.back() + (given ? tokens_per_rank[static_cast<std::size_t>(r)] : even));
  }
  if (offsets.back() != tokens)
    throw InputError("call option 'tokens_per_rank' sums to " + std::to_string(offsets.back()) + ": want " +
                     std::to_string(tokens) + " tokens");
  return offsets;
}

ExpertRange rank_experts(const MoEConfig& c, std::int64_t rank, std::int64_t ranks) {
  const std::int64_t experts = c.experts_with_weights();
  if (experts % ranks != 0)
    throw InputError(
        "call option 'ep_size' is " + std::to_string(ranks) + ": want a divisor of n_routed_experts" +
        (c.n_identity_experts > 0 ? " - n_identity_experts" : "") + " = " + std::to_string(experts));
  const std::int64_t count = experts / ranks;
  return {rank * count, count};
}

}  // namespace moeref
