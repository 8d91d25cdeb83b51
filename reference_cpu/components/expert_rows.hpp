// What forward and backward of the routed experts share: which slots each expert has, where their weights
// stand, and one expert's parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "reference_cpu/components/activation.hpp"
#include "reference_cpu/components/experts.hpp"

namespace moeref {

/// The slots (t k + j) of each expert of the range, in ascending order.
std::vector<std::vector<std::int64_t>> slots_by_expert(const Routing& routing, ExpertRange range);

/// The slots of a token that go to experts of the range, and how many go to others.
struct LiveSlots {
  std::vector<std::int64_t> here;
  std::int64_t elsewhere = 0;
};
LiveSlots live_slots(const MoEConfig& config, const Routing& routing, ExpertRange range, std::int64_t token);

/// A routing weight as the experts get it: fp32 at the finest, since grouped products and exchanges between
/// ranks hold it so.
Real seen_weight(const Routing& routing, std::int64_t slot);

/// The factor p of the activation and of the down bias; 1 where the weight stands elsewhere.
Real inner_weight(const MoEConfig& config, const Routing& routing, std::int64_t slot);

std::vector<std::int64_t> tokens_of(const std::vector<std::int64_t>& slots, std::int64_t k);

/// What an expert's slots multiply by its first matrix: the tokens' rows, times p where the weight stands
/// there. An honest implementation stores that product in x's type, or keeps it finer.
Bounded expert_input(const MoEConfig& config, const Bounded& x, const Routing& routing,
                     const std::vector<std::int64_t>& slots);

/// The tokens' rows times p of these slots, stored in x's type: what an expert that returns its input gives.
Bounded weighted_rows(const Bounded& x, const Routing& routing, const std::vector<std::int64_t>& slots);

/// From d of weighted_rows to d of the tokens' rows, and d of p.
void weighted_rows_backward(const Bounded& x, const Routing& routing, const std::vector<std::int64_t>& slots,
                            Bounded& rows, Bounded& d_weights);

/// Row r of `rows` to row to[r].
void scatter_rows(const Bounded& rows, const std::vector<std::int64_t>& to, Bounded& into);

/// One expert's parameters, cast to the types of the products and of the activations.
struct Expert {
  Bounded up, down;
  Bounded up_bias, down_bias;  ///< unused without expert_bias
};

/// The expert that this thread works on: tens of megabytes at real width, so that the memory is kept from one
/// expert to the next.
const Expert& load_expert(const MoEConfig& config, const ExpertsParams& params, std::int64_t expert,
                          DType products, DType activations);

/// act(h) for one element of a slot's row.
Real activate(const Activation& act, const ActivationParams& params, const Bounded& h, std::int64_t row,
              std::int64_t i, std::int64_t width);

}  // namespace moeref
