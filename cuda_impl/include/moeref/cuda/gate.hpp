// The gate (SPEC.md 3): logits, scores, selection, routing weights, expert load and auxiliary loss; and its
// backward pass.
//
// No call synchronises, allocates or looks at values on the host; all may be captured in a CUDA graph and
// replayed with other contents of the same buffers. Results are the same bits on every run on one device.
//
// Rounding: logits are stored in the compute type, as the documented system stores them; what follows, down
// to the stored outputs, stays in fp32 (fp64 under precision float64). So in bfloat16 the scores that experts
// are chosen by carry the rounding of the logits and no other.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "moeref/cuda/aux_loss.hpp"
#include "moeref/cuda/capacity.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// In the order of the call's score_func.
enum class ScoreFunction { softmax, sigmoid, sigmoid_with_bias, softmax_with_bias, sqrtsoftplus };

struct GateConfig {
  std::int64_t tokens;  // T, at least 0; T * max(D, E) up to 2^42
  int dim;              // D, at least 1; a multiple of 8 is fast
  int experts;          // E, 1 to 1024
  int slots;            // k, 1 to min(E, 64)
  ScoreFunction score_function = ScoreFunction::softmax;
  int groups = 1, limited_groups = 1;  // ignored by softmax and sqrtsoftplus
  bool softmax_before_topk = false;
  bool norm_topk_prob = false;
  double route_scale = 1.0;
  bool weight_uses_correction = false;               // router_weight_uses_score_correction_bias
  bool weights_fp32 = false;                         // router_weights_fp32
  std::optional<DataType> precision = std::nullopt;  // of the logits; none: x_type
  DataType x_type = DataType::bfloat16;
  DataType parameter_type = DataType::bfloat16;
  bool training = true;
  double aux_loss_coeff = 0.0;
  double aux_loss_backward_scale = 1.0;  // the main-loss backward scale
  // Conventions beyond the documented system (SPEC.md 10), under the names of their fields.
  bool norm_at_most = false;  // norm_denominator: max(sum, norm_eps) divides, and not sum + norm_eps
  double norm_eps = 1e-20;
  bool norm_top1_weights = false, norm_top1_scores = false;  // norm_at_top1: what k = 1 divides
  int group_sum = 0;  // group_score: how many of a group's largest q are added; 0: the score function's
  std::optional<bool> discards_to_zero = std::nullopt;  // discarded_groups; none: the score function's
  double logit_scale = 1.0, logit_cap = 0.0;            // 0: no cap
  bool selects_logits = false;                          // selection_scores
  int always_selected = 0;                              // n_always_selected, less than k
  bool loss_over_slots = true;                          // aux_loss_factor: E / k, and not E
  CapacityRule capacity = {};
  bool norm_after_dropping = false;
  int null_id = -1;                // of dropped slots in dispatched_ids: -1, or E (null_slots)
  bool router_jitter = false;      // the gate sees x times GateInput::noise, in x_type
  bool router_input_norm = false;  // and that divided by the root of its mean square, times input_scale
  double router_input_norm_eps = 1e-6;
  bool per_expert_scale = false;  // weights times their experts' factors, after route_scale
  double z_loss_coeff = 0.0;
  bool balances = false;  // selection_scores: in training Sinkhorn's balancing of this rank's tokens
  double sinkhorn_tolerance = 1e-4;
  bool loss_first_choice = false;  // aux_loss_counts
  int loss_sequences = 1;          // aux_loss_sequences, a divisor of T where there is the loss; of one rank
  bool loss_accumulated = false;   // aux_loss_accumulated, of one sequence
  double batch_loss_coeff = 0.0;   // of a loss of all tokens, and of one that adds accumulated_load to their
  double global_loss_coeff = 0.0;  // loads, beside the one of the three fields above or without it

  /// The type that logits are computed and saved in.
  DataType compute_type() const { return precision.value_or(x_type); }
  /// The type of the routing weights.
  DataType weights_type() const { return weights_fp32 ? DataType::float32 : x_type; }
  bool balances_selection() const { return training && balances; }
  bool has_aux_loss() const { return training && aux_loss_coeff > 0.0; }
  bool has_batch_loss() const { return training && batch_loss_coeff > 0.0; }
  bool has_global_loss() const { return training && global_loss_coeff > 0.0; }
  bool has_z_loss() const { return training && z_loss_coeff > 0.0; }
  /// Whether there is any of the three losses by expert load, whose gradients add up at S.
  bool has_load_loss() const { return has_aux_loss() || has_batch_loss() || has_global_loss(); }
  bool has_loss() const { return has_load_loss() || has_z_loss(); }
  /// Whether weights are divided by their sum, and whether S is.
  bool normalises_weights() const { return norm_topk_prob && (slots > 1 || norm_top1_weights); }
  bool normalises_scores() const { return norm_topk_prob && (slots > 1 || norm_top1_scores); }
  /// Whether weights are divided by the sum over the slots that experts take.
  bool divides_after_dropping() const {
    return norm_after_dropping && capacity.drops_slots() && normalises_weights();
  }
  /// Of the losses by expert load that there are, but for the earlier loads themselves.
  AuxLossRule loss_rule() const {
    if (!has_load_loss()) return {};
    AuxLossRule rule = aux_loss_rule(slots, loss_over_slots, loss_first_choice,
                                     has_aux_loss() ? loss_sequences : 1, has_aux_loss() && loss_accumulated);
    if (has_batch_loss() || has_global_loss())
      rule.loss_weight = aux_loss_coeff, rule.batch_weight = batch_loss_coeff,
      rule.global_weight = global_loss_coeff;
    return rule;
  }
};

struct GateParameters {
  const void* weight;                  // [E, D] in parameter_type
  const void* bias = nullptr;          // [E] in parameter_type, or null
  const float* correction = nullptr;   // [E] e_score_correction_bias, or null where the gate has none
  const void* input_scale = nullptr;   // [D] in parameter_type, with router_input_norm
  const void* expert_scale = nullptr;  // [E] in parameter_type, with per_expert_scale
};

struct GateInput {
  const void* x;                             // [T, D] in x_type
  const std::uint8_t* token_mask = nullptr;  // [T], 1 = real token; or null: all are
  const int* replay_ids = nullptr;           // [T, k] ids to use instead of a selection, or null. One outside
                                             // [0, E) gets weight 0, no load and no gradient
  const void* noise = nullptr;               // [T, D] in x_type, with router_jitter; has no gradient
  const std::int64_t* accumulated_load = nullptr;  // [E], where a loss adds it: loss_rule()
};

/// What the losses are made of. Under context parallelism each of the two arrays is summed over the ranks.
struct GateStatistics {
  std::int64_t* counts = nullptr;  // real tokens, the load [E], and the first choices [E] where these count
  double* sums = nullptr;          // sum_t m_t S_ti [E] if has_load_loss(), sum_t m_t logsumexp(z_t)^2 if
                                   // has_z_loss()

  static std::int64_t count_of_counts(const GateConfig& c) {
    return 1 + c.experts * (c.loss_rule().first_choice ? 2 : 1);
  }
  static std::int64_t count_of_sums(const GateConfig& c) {
    return (c.has_load_loss() ? c.experts : 0) + (c.has_z_loss() ? 1 : 0);
  }
};

/// Where the losses go, one number each.
struct GateLosses {
  float *aux_loss = nullptr, *batch_loss = nullptr, *global_loss = nullptr, *z_loss = nullptr;
};

/// Any pointer but `ids` may be null. Slots are in descending order of the selection's scores, or as
/// replayed.
struct GateOutput {
  int* ids;                        // [T, k]
  void* weights = nullptr;         // [T, k] in weights_type(); 0 where the slot is dropped
  float* weights_float = nullptr;  // [T, k] the same numbers, as the routed experts take them
  std::int64_t* load = nullptr;    // [E] real tokens of each expert
  float* aux_loss = nullptr;       // one number, without the coefficient; written only if has_aux_loss()
  GateStatistics statistics = {};  // this rank's, both or neither; for gate_losses
  float* z_loss = nullptr;         // one number, without the coefficient; written only if has_z_loss()
  int* dispatched_ids = nullptr;   // [T, k] those that experts get, where capacity.drops_slots(): null_id for
                                   // slots that no expert has room for. Loads and the loss count `ids`
  float* batch_loss = nullptr;     // one number each, likewise, if has_batch_loss()
  float* global_loss = nullptr;    // and has_global_loss()

  GateLosses losses() const { return {aux_loss, batch_loss, global_loss, z_loss}; }
};

/// Any pointer may be null: that gradient is not computed.
struct GateGradients {
  void* x = nullptr;            // [T, D] in x_type
  void* weight = nullptr;       // [E, D] in parameter_type
  void* bias = nullptr;         // [E] in parameter_type
  bool add_to_x = false;        // add to what `x` holds, in fp32 (fp64 under precision float64), rounded once
  void* input_scale = nullptr;  // [D] in parameter_type
  void* expert_scale = nullptr;  // [E] in parameter_type
};

/// Bytes that forward saves for backward: first the logits [T, E] in the compute type, then the gradient [E]
/// of each sequence by its scores, of the losses by expert load, and 1 / n of the z-loss; where slots are
/// dropped the ids that experts get [T, k], and with norm_after_dropping the weights before their division
/// [T, k].
std::size_t gate_saved_bytes(const GateConfig& config);
std::size_t gate_forward_workspace_bytes(const GateConfig& config);
std::size_t gate_backward_workspace_bytes(const GateConfig& config);

/// `saved` (gate_saved_bytes) may be null when no backward follows. `saved` and `workspace` are aligned to
/// 256 bytes, tensors to their elements; x and weight to 16 bytes are faster. Throws ArgumentError naming a
/// field out of range or an impossible combination (SPEC.md 1), CudaError when a launch fails.
void gate_forward(const GateConfig& config, const GateParameters& parameters, const GateInput& input,
                  const GateOutput& output, void* saved, void* workspace, cudaStream_t stream);

/// Under context parallelism, after gate_forward with the same config and input: `sum` holds the statistics
/// summed over the ranks. Writes the losses of the whole sequence that the config has (any may be null), and
/// to `saved` (may be null) what gate_backward needs of them.
void gate_losses(const GateConfig& config, const GateInput& input, const GateStatistics& sum,
                 const GateLosses& losses, void* saved, cudaStream_t stream);

/// Gradients for the cotangent `d_weights` [T, k] of the weights, of type `d_weights_type`, after
/// gate_forward with the same config, parameters, input and `saved`, whose ids are `ids` [T, k]. If
/// has_aux_loss(), S also receives aux_loss_coeff * aux_loss_backward_scale * f_i m_t / n, for any
/// d_weights, and the same of the batch and the global loss; if has_z_loss(), z receives z_loss_coeff *
/// aux_loss_backward_scale * 2 / n logsumexp(z_t) softmax(z_t)_i m_t.
void gate_backward(const GateConfig& config, const GateParameters& parameters, const GateInput& input,
                   const int* ids, const void* d_weights, DataType d_weights_type, const void* saved,
                   const GateGradients& gradients, void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
