// What the gate of the eager port is made of, gradients beside what they are gradients of. A Row holds the
// numbers of one token: E of its experts or k of its slots.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {

// eager_router_input.cpp

/// x [T, D] as Megatron-Core multiplies the gate's input by noise [T, D] of its own type; of a cotangent the
/// way back too.
Matrix jittered(const Workspace&, const Matrix& x, const Tensor& noise);

/// The gate's input [T, D] as Gemma 4 makes it of x [T, D] and the scale [D], in `compute`.
Matrix normed_input(const Workspace&, const MoEConfig&, const Matrix& x, const Tensor& scale, DType compute);
/// Back through it: the gradient of x by d [T, D], and that of the scale as `name` into `out`, unless the
/// name is empty.
Matrix normed_input_gradient(const Workspace&, const MoEConfig&, const Matrix& x, const Tensor& scale,
                             const Matrix& d, const std::string& name, NamedTensors& out);

// eager_score.cpp

/// Logits [E] as they are scored: with their factor and cap, computed in `t`.
Row mapped(const MoEConfig&, const Row& z, DType t);
/// The gradient of one logit z by that of what is scored, in the type of d.
Num mapped_gradient(const MoEConfig&, Num z, Num d);

/// Converted to `t` first, computed in float (double), rounded once.
Row softmax(const Row& z, DType t, Order order);
/// The gradient of z by d of s = softmax(z).
Row softmax_gradient(const Row& s, const Row& d, DType t, Order order);

/// S [E] of mapped logits: softmax in `softmax_type`, other score functions in `activated`.
Row scored(const MoEConfig&, const Row& z, DType softmax_type, DType activated, Order order);
/// The gradient of z by ds of s = scored(z).
Row score_gradient(const MoEConfig&, const Row& s, const Row& z, Row ds, DType activated, Order order);

/// What divides a row: its sum plus norm_eps, or the larger of the two.
Num denominator(const MoEConfig&, const Row& row, Order order);
/// Of row / denominator(row): the gradient by the row directly, and through the sum, which is alike for all.
struct NormaliseGradient {
  Row direct;
  Num through_sum;
};
NormaliseGradient normalise_gradient(const MoEConfig&, const Row& row, const Row& d, Order order);

/// A slot's weight before per_expert_scale, from the k values of its token of which `live` count.
Row divided(const MoEConfig&, const Row& values, const std::vector<bool>& live, bool divides, Order order);

// eager_selection.cpp

/// The k experts of a token by the numbers q [E] that it selects by, in the order of its slots.
std::vector<std::int64_t> choose(const MoEConfig&, const Row& q);

/// Megatron-Core's sinkhorn() of the tokens [first, last) of logits [T][E], in float; appends to the rows of
/// q [T][E].
void balance(const MoEConfig&, const std::vector<Row>& logits, std::int64_t first, std::int64_t last,
             Order order, std::vector<Row>& q);

/// Which slots [T * k] are kept, as a rank with the tokens [first, last) finds out: places in line at each
/// expert. Sets those that lose theirs to false.
void drop(const MoEConfig&, const GateResult&, const std::vector<bool>& mask, std::int64_t first,
          std::int64_t last, std::vector<bool>& kept);

// eager_bias_update.cpp

/// Megatron-Core's qb_dual_update() of the tokens [first, last), with c = -beta; nothing without a token.
std::vector<Num> column_quantiles(const MoEConfig&, const GateResult&, const std::vector<Num>& correction,
                                  const std::vector<bool>& mask, std::int64_t first, std::int64_t last);
/// The correction [E] after a round of forwards with these loads [E], or, under the rule of quantiles, with
/// those of its parts.
void update_correction(const MoEConfig&, const std::vector<std::int64_t>& load,
                       const std::vector<std::vector<Num>>& quantiles, Order order,
                       std::vector<Num>& correction);

// eager_losses.cpp; aux_loss() is a component of the port.

/// Those with a coefficient, in the order in which Megatron-Core's router comes to them.
std::vector<GateLoss> gate_losses(const Workspace&, const MoEConfig&, const Matrix& scores,
                                  const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                  const Tensor* accumulated);
/// Their gradients by the scores [E] of token t, each in the type of S: apart, or added up in it.
std::vector<Row> gate_losses_gradients(const Workspace&, const CallOptions&, const GateResult&,
                                       const std::vector<bool>& mask, std::int64_t t, bool apart);

/// The z-loss of logits [T, E], before its coefficient.
double z_loss(const Workspace&, const CallOptions&, const Matrix& logits, const std::vector<bool>& mask);
/// Its gradient, with the coefficient, by the logits [E] of token t, which is live.
Row z_loss_gradient(const Workspace&, const MoEConfig&, const CallOptions&, const Matrix& logits,
                    const std::vector<bool>& mask, std::int64_t t);

}  // namespace moeref::eager
