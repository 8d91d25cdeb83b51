// Expert parallelism modelled with in-process ranks (SPEC 8): both documented exchanges, forward and
// backward.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/components/experts.hpp"

namespace moeref {

/// The rows that one rank received, and the results of its experts.
struct RankWork {
  ExpertRange experts;
  std::vector<std::int64_t> tokens;  ///< the token of each received row
  Bounded x, weights;                ///< [received, D'], [received, k]
  std::vector<std::int64_t> indices;
  std::vector<bool> mask;
  ExpertsForward forward;

  Routing routing() const { return {indices, weights, mask}; }
};

struct ParallelForward {
  std::vector<RankWork> ranks;
  Bounded
      y;  ///< [T, D'], each token's parts added in the order of the ranks; the bound holds for every order
};

/// The result of experts_forward, computed as `options.parallel` spreads it: rank r owns the tokens of its
/// part of rank_offsets and the experts of rank_experts; "all_gather" gives every rank all tokens,
/// "all_to_all" one row per pair of a token and a rank with work for it, which adds up its slots before the
/// row goes back. Ranks without tokens or work take part.
ParallelForward experts_forward_parallel(const MoEConfig& config, const CallOptions& options,
                                         const ExpertsParams& params, const Bounded& x,
                                         const Routing& routing);

/// dy [T, D']. Gradients of x and of routing weights that belong to other ranks are sent back and added
/// there. `others` as in experts_backward.
ExpertsBackward experts_backward_parallel(const MoEConfig& config, const CallOptions& options,
                                          const ExpertsParams& params, const ParallelForward& saved,
                                          const Bounded& dy, const std::string& prefix,
                                          std::map<std::string, BoundedTensor>& grads,
                                          std::int64_t others = 0);

}  // namespace moeref
