// What experts' scores would have to be lowered by to give each its share of the tokens (SPEC 10,
// bias_update_rule quantile).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// For each expert the floor(m k / E) + 1st largest of S_te - alpha_t over the m real tokens of [first, last)
/// [E]: S what the selection orders without the bias, alpha_t the k + 1st largest of S_te + c_e. In float32
/// at least. Nothing without a real token.
std::optional<std::vector<Real>> score_quantiles(const MoEConfig& config, const CallOptions& options,
                                                 const std::vector<Real>& correction, const Bounded& logits,
                                                 const std::vector<bool>& mask, std::int64_t first,
                                                 std::int64_t last);

}  // namespace moeref
