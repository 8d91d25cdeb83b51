// Selection by Sinkhorn's balancing (SPEC 10): factors of tokens and of experts that even out exp(z).
#pragma once

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// q [T, E] = d1_e exp(z_te) d0_t of logits z [T, E] as they are scored, in float32; each context- or
/// expert-parallel rank balances its own tokens. Where bounds leave open after how many rounds an honest
/// implementation stops, q is within its bounds whichever it is.
Bounded sinkhorn(const MoEConfig& config, const ParallelOptions& parallel, const Bounded& logits);

}  // namespace moeref
