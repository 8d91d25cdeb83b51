// The router's formulas once more, in plain double arithmetic and as short as they can be: what router
// properties expect. The formulas are independent of the reference on purpose; which group rule and which
// bias a score function has is read from its row in moeref/score_func.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "property_tests/suite/answer.hpp"

namespace moeref {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> values;

  double& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

/// Tensor [rows, cols] in double.
Matrix matrix_of(const Tensor& tensor);

/// What the gate multiplies by its weight [T, D]: x, or x normalised under router_input_norm.
Matrix router_input_of(const Call& call);

/// z [T, E] of a gate call, as it is scored: after logit_scale and logit_cap.
Matrix logits_of(const Call& call);

/// The slope of such a number by the logit itself.
double logit_slope(const MoEConfig& config, double mapped);

/// The score function's S [T, E], before bias and normalisation; softmax over all experts in either softmax
/// mode.
Matrix scores_of(const Call& call);

/// S as the weights are gathered from it: with the bias where the config says so.
Matrix weighed_scores_of(const Call& call);

/// q [T, E] after groups are discarded: what the selection orders. For softmax, and where selection_scores
/// says so, it is made of z.
Matrix choices_of(const Call& call);

/// d1_e exp(z_te) d0_t [T, E] under selection_scores = sinkhorn, of each rank's tokens; stops after `rounds`.
Matrix balanced_choices_of(const Call& call, int rounds = 1000);

/// The k largest of a row, lowest ids first among equal ones, ascending.
std::vector<std::int64_t> largest(const Matrix& m, std::int64_t row, std::int64_t k);

/// w [k] that the ids given should have, slot by slot.
std::vector<double> weights_of(const Call& call, const Matrix& weighed, std::int64_t token,
                               const std::vector<std::int64_t>& ids);

/// Whether a token is not masked.
bool is_real(const Call& call, std::int64_t token);

/// A gate without correction bias and groups.
void arrange_plain(Descriptor& d);

/// Selected ids of a token as the implementation gave them, slot by slot.
std::vector<std::int64_t> ids_of(const Answer& answer, std::int64_t token);

/// A decided token's experts must be `expected` (ascending). False, having compared nothing, where it is
/// undecided.
bool expect_selected(const Answer& answer, std::int64_t token, const std::vector<std::int64_t>& expected,
                     std::string_view text);

/// Weights of all tokens against the formula on exact logits, on the implementation's own selection.
void expect_weights(const Answer& answer, std::string_view text);

/// Of a call with a backward pass the gradient of x: sigma' (or the softmax's Jacobian over all experts)
/// times the slope of logit_scale and logit_cap times W. For sigmoid and softmax before the selection,
/// without normalisation and auxiliary loss.
void expect_gradient_of_x(const Answer& answer, const Descriptor& d, std::string_view text);

/// The call with every floating tensor, and the config, in another dtype; exact where that is wider. The
/// correction bias is float32 in every call.
Call in_dtype(Call call, DType dtype);

/// The config with fields replaced.
Call with_config(Call call, const nlohmann::json& fields);

/// A correction bias enters this score function.
bool takes_correction(ScoreFunc score);

/// What a normalisation divides numbers of this sum by.
double divisor_of(const MoEConfig& config, double sum);

}  // namespace moeref
