// How large rounding errors probably are beside the bound that they cannot pass (VERDICTS.md, "The probable
// ratio").
#pragma once

#include <string_view>

#include "moeref/implementation.hpp"

namespace moeref {

/// A result beyond so many probable errors gets a warning: it is within its bound, but honest rounding does
/// not get there.
inline constexpr double kImprobable = 8.0;

/// 1 / sqrt(K) for a result that ends in sums of at least K terms, in float32 throughout: K roundings of
/// random sign add up to about sqrt(K) of them, and so do the errors of the K terms. 1 for every other
/// result: where few roundings, or those of a narrower type, make the bound, nothing grows with K.
double probable_share(const Call& call, std::string_view tensor);

}  // namespace moeref
