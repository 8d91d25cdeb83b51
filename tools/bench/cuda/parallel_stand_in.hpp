// Two ranks in place of one of many: what the experts of a layer take there where two devices are all there
// is.
#pragma once

#include "tools/bench/cuda/parallel_layer.hpp"
#include "tools/bench/cuda/program.hpp"

namespace moeref::cuda::bench {

/// Each of two ranks sends as many rows to the other as one of `ranks` sends to all others, none to itself,
/// and its E / ranks experts work on as many rows as there, with a few more places in a slot than rows as
/// there. What differs: one peer in place of ranks - 1, so that nobody else stores to it at the same time.
struct StandIn {
  std::int64_t tokens;  // of each of the two
  int slots;            // of a token; some have no expert, so that the rows are as many
  LayerTimes spread,
      alone;  // of the experts without a gate; alone: one device, the shape's own tokens and experts
};
/// On a group of two ranks, even routing, bf16 swiglu. Collective.
StandIn time_stand_in(const Shape& shape, int ranks, int chunks, ParallelClock& clock);

}  // namespace moeref::cuda::bench
