// Descriptors: what a property test draws, prints, repeats and shrinks instead of tensors.
//
// A descriptor is one line, "gate T=7 E=8 k=2 score=sigmoid dtype=bfloat16 mask=random seed=42". Every
// element of the call that it stands for is a pure function of (seed, tensor name, coordinates), so that
// lowering T, E or D leaves the other values as they were, and the line alone rebuilds a failure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// How the gate's logits come about (gate, bias_update, moe). All but `rough` and `whole` have a gate weight
/// that is the identity, so that x holds the logits, and every logit is exact in every dtype.
enum class Logits : std::uint8_t {
  levels,    ///< different for every expert of a token, in even steps over [-2, 2.1]
  rough,     ///< normal x and weights: what a real layer sees
  whole,     ///< small integers times small integers over 4: exact products, some ties
  ties,      ///< three values only, so that many are equal
  equal,     ///< all the same
  large,     ///< levels times 16: saturated scores
  negative,  ///< levels less 8
  skewed,    ///< levels, with a head start for low ids: some experts stay empty
};

/// Every other floating tensor: x of experts and MLPs, their parameters, given weights and scores,
/// cotangents.
enum class Values : std::uint8_t {
  exact,  ///< small integers and powers of two: sums are exact in any order
  rough,  ///< normal
  loud,   ///< normal, with x large enough to reach the activations' clamps
};

enum class Correction : std::uint8_t {
  none,      ///< there is no correction bias
  zero,      ///< there is one, all 0
  equal,     ///< 1/8 for every expert
  normal,    ///< of both signs, within [-1/2, 1/2]
  negative,  ///< within [-3/2, -1/4]: negative biased scores
};

enum class NonFinite : std::uint8_t { none, nan, infinity };  ///< in x, in the middle of the middle token
enum class Spread : std::uint8_t { even, uneven, idle };      ///< of tokens over ranks; idle: one has none
enum class Mask : std::uint8_t { absent, none, random, first, last, every_second, all_but, all };
enum class Ids : std::uint8_t {
  distinct,
  skewed,
  same,
  some_empty,
  round_robin,
  last_expert,
  duplicates,
  absent_slots,
  rows,  ///< one expert has exactly `rows` rows
};
enum class Loads : std::uint8_t { random, mixed, zero, equal, single };
enum class RankKind : std::uint8_t { expert, context, data };  ///< what `ranks` are

std::string_view name(Logits value);
std::string_view name(Values value);
std::string_view name(Correction value);
std::string_view name(NonFinite value);
std::string_view name(Spread value);
std::string_view name(Mask value);
std::string_view name(Ids value);
std::string_view name(Loads value);
std::string_view name(RankKind value);

struct Descriptor {
  Component component = Component::gate;
  std::int64_t ranks = 1;
  std::int64_t E = 1, k = 1, groups = 1, limited = 1;
  std::int64_t T = 1;      ///< tokens; of each micro-batch in bias_update; layers in metrics
  std::int64_t batch = 1;  ///< moe: x is [batch, T / batch, D]; a divisor of T
  std::int64_t D = 1, I = 1, latent = 0, shared = 0;
  std::int64_t steps = 1, micro = 1;  ///< bias_update: rounds, and forwards per round
  std::int64_t skip = 0;              ///< experts that the balanced gate leaves out
  std::int64_t rows = 0;              ///< of the expert that ids of the kind `rows` choose

  RankKind rank_kind = RankKind::expert;
  bool all_to_all = false;
  Spread spread = Spread::even;
  ScoreFunc score = ScoreFunc::softmax;
  bool before_topk = false, norm = false, router_bias = false, weights_fp32 = false, biased_weights = false;
  bool replay = false;     ///< gate, moe, bias_update: expert ids are given
  bool frozen = false;     ///< train_gate is off
  bool eval = false;       ///< training is off
  double scale = 1.0;      ///< route_scale
  double aux = 0.0;        ///< aux_loss_coeff
  double aux_scale = 1.0;  ///< aux_loss_backward_scale
  double factor = 0.0;     ///< gate_bias_update_factor
  Correction correction = Correction::none;
  bool fake_gate = false;  ///< moe: the balanced gate in place of the gate
  double noise = 0.0;      ///< fake_balanced_gate, or moe with fake_gate
  ActivationKind activation = ActivationKind::swiglu;
  bool expert_bias = false, after_down = false, shared_gate = false, shared_relu2 = false;
  double limit = 0.0;  ///< activation_limit of swigluoai and quick_geglu, swiglu_limit of swiglu
  double std = 0.02;   ///< init_std
  DType dtype = DType::float32;
  std::optional<DType> precision;  ///< gate_precision
  Logits logits = Logits::levels;
  Values values = Values::exact;
  NonFinite poison = NonFinite::none;
  Mask mask = Mask::absent;
  Ids ids = Ids::distinct;
  Loads loads = Loads::random;
  Float32Products products = Float32Products::float32;  ///< as the implementation declares
  MoEConfig config;  ///< the fields that are drawn as their rows say; all others are members here
  std::uint64_t seed = 0;

  friend bool operator==(const Descriptor&, const Descriptor&) = default;

  /// No type narrower than float32, and none of its own for the gate.
  void widen() {
    if (dtype != DType::float64) dtype = DType::float32;
    config.gate_dtype.reset();
  }
  bool has_correction() const { return correction != Correction::none; }
  /// Whether the score function looks at groups at all.
  bool grouped() const {
    return groups > 1 && (uses_groups(score) || config.group_score != GroupScore::by_score_func);
  }
};

/// One line; fields at their defaults are left out, but for the seed.
std::string to_line(const Descriptor& descriptor);

/// Inverse of to_line. Throws InputError naming the word that is wrong. The result is not yet repaired.
Descriptor parse_descriptor(std::string_view line);

/// Brings every field into its range and fields into agreement (k <= E, groups divide E, ...), always to the
/// same result; a repaired descriptor stays as it is.
void repair(Descriptor& descriptor);

/// How large calls are.
enum class Scale : std::uint8_t {
  small,   ///< a few rows and columns, and extents of the ladder as far as the budget allows
  kernel,  ///< widths of published models, hundreds to thousands of tokens
  full,    ///< their layers, 8192 to 32768 tokens, and rows times width beyond 2^31
};

std::string_view name(Scale scale);

/// Throws InputError naming the text.
Scale parse_scale(std::string_view text);

/// The extents of a property's cases.
enum class Sizes : std::uint8_t {
  usual,      ///< small, now and then of the ladder
  any_scale,  ///< the same, and the property is for `kernel` and `full` too
  ladder,     ///< of the ladder in every case, at every scale
};

/// What drawn extents may cost. The ladder is the sizes at which kernels change their path: b - 1, b and b +
/// 1 for b = 8, 16, 32, 64, 96, 128, ... (descriptor/extents.hpp).
struct SizeRange {
  Scale scale = Scale::small;
  double multiply_adds = 0x1p17;  ///< of a call's forward and backward passes
  double elements = 0x1p22;       ///< of the largest tensor
  int ladder_percent = 10;        ///< of the small cases have one or two extents of the ladder
  /// Of calls beyond Scale::small, whose cases are too few to be spent on what a port declines. Empty: any.
  std::vector<DType> dtypes = {};
  /// Conventions that drawn calls may depend on (reference_cpu/call/conventions.hpp); without a list, any.
  std::optional<std::vector<std::string>> conventions = {};
};

/// The budget of a scale; that of calls which the CPU reference computes itself is smaller at `full`.
SizeRange size_range(Scale scale, bool by_reference = false);

/// A descriptor of that component, from 64 random bits. Edges (T = 0, k = E, all masked, ...) come often by
/// design. The range decides on extents alone at Scale::small; at the others on the whole layer.
Descriptor draw_descriptor(Component component, std::uint64_t bits, const SizeRange& range = {});

/// Lowers extents, the largest first, until the call is within the range; nothing where it is. True where it
/// lowered one.
bool lower_to(Descriptor& descriptor, const SizeRange& range);

/// Simpler descriptors to try in place of a failing one, the largest steps first: ranks, E, k, T, D, then
/// features back to their defaults, then values. Extents go down the ladder, then by halves to the smallest
/// that fails. `prepare` makes each a descriptor that the property takes.
std::vector<Descriptor> shrinks(const Descriptor& descriptor,
                                const std::function<void(Descriptor&)>& prepare);

/// The parts of a call.
MoEConfig moe_config(const Descriptor& descriptor);
MLPConfig mlp_config(const Descriptor& descriptor);
nlohmann::json call_options(const Descriptor& descriptor);

/// Tokens of each rank as `spread` says: counts that sum to T.
std::vector<std::int64_t> tokens_per_rank(const Descriptor& descriptor);

/// The call with all its tensors; with cotangents and gradients where `backward`. Throws InputError for a
/// descriptor that is not repaired.
Call make_call(const Descriptor& descriptor, bool backward = false);

}  // namespace moeref
