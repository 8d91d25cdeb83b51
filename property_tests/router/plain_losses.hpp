// The losses by expert load in plain double arithmetic (SPEC 3.4, 10).
#pragma once

#include <cstdint>
#include <vector>

#include "property_tests/router/router_oracle.hpp"

namespace moeref {

/// Of tokens [first, last), 1 at least.
double real_tokens(const Call& call, std::int64_t first, std::int64_t last);

/// Load [E] of tokens [first, last): each expert at most once a token, real tokens only.
std::vector<double> plain_load(const Call& call, const Tensor& ids, std::int64_t first, std::int64_t last);

/// What a loss is of: so many sequences, and with the loads of earlier micro-batches or without.
struct LossScope {
  std::int64_t sequences = 1;
  bool earlier = false;
};
/// That of aux_loss_coeff.
LossScope configured_scope(const Call& call);

/// f [E] of tokens [first, last).
std::vector<double> plain_factors(const Call& call, const Tensor& ids, std::int64_t first, std::int64_t last,
                                  LossScope scope);

/// S [T, E] of a gate call as its losses see it: normalised where the config says so.
Matrix loss_scores_of(const Call& call);

/// The mean over the sequences of the call.
double plain_loss(const Call& call, const Matrix& scores, const Tensor& ids, LossScope scope);
inline double plain_loss(const Call& call, const Matrix& scores, const Tensor& ids) {
  return plain_loss(call, scores, ids, configured_scope(call));
}

}  // namespace moeref
