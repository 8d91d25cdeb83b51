// The table of config fields and call options, one row each: reading, writing, checks, the list of fields,
// the Python module and the descriptors of property tests go through it. Type and default are those of the
// struct's member.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "moeref/component.hpp"
#include "moeref/config.hpp"

namespace moeref {

enum class Presence : std::uint8_t { required, optional };

// Checks of one value without regard to other fields. `want` is the end of the message when one fails.
struct Anything {
  std::string_view want;
  bool operator()(const auto&) const { return true; }
};
struct Between {
  double least, most;
  std::string_view want;
  bool operator()(auto value) const {
    return least <= static_cast<double>(value) && static_cast<double>(value) <= most;
  }
};
struct Positive {
  std::string_view want = "want more than 0";
  bool operator()(double value) const { return value > 0.0; }
};
struct InMLP {
  std::string_view want = "want swiglu, relu2 or situ";
  bool operator()(ActivationKind value) const { return facts(value).in_mlp; }
};
struct Counts {
  std::string_view want = "want counts of 0 or more";
  bool operator()(const std::vector<std::int64_t>& values) const {
    return std::ranges::all_of(values, [](std::int64_t n) { return n >= 0; });
  }
};
struct Exchange {
  std::string_view want = "want all_gather or all_to_all";
  bool operator()(std::string_view value) const { return value == "all_gather" || value == "all_to_all"; }
};

/// How property tests draw a config field: in `percent` of the calls it has one of the values, else its
/// default. With 0 percent it has its default unless a property arranges otherwise. A field without this has
/// a member of the descriptor, or its default in every drawn call.
template <typename T, std::size_t N>
struct Drawn {
  int percent;
  std::array<T, N> values;
};
template <typename T, std::size_t N>
Drawn(int, std::array<T, N>) -> Drawn<T, N>;
struct NotDrawn {};

template <typename Struct, typename Member, typename Check, typename Draw>
struct Field {
  std::string_view name;
  Member Struct::*member;
  Presence presence;
  Check check;
  std::string_view meaning;
  std::string_view readers;     ///< the components that read it
  std::string_view other_name;  ///< which the documented system's calls use, too
  Draw draw;
  /// The documented system has no such field: a port gets it at its default, or declares that it knows it.
  bool convention = false;

  static constexpr bool drawn = !std::is_same_v<Draw, NotDrawn>;
};

template <typename Struct, typename Member, typename Check, typename Draw = NotDrawn>
constexpr Field<Struct, Member, Check, Draw> field(std::string_view name, Member Struct::*member,
                                                   Presence presence, Check check, std::string_view meaning,
                                                   std::string_view readers, std::string_view other_name = {},
                                                   Draw draw = {}) {
  return {name, member, presence, check, meaning, readers, other_name, draw};
}

template <typename Struct, typename Member, typename Check, typename Draw>
constexpr Field<Struct, Member, Check, Draw> convention(std::string_view name, Member Struct::*member,
                                                        Check check, std::string_view meaning,
                                                        std::string_view readers, Draw draw) {
  return {name, member, Presence::optional, check, meaning, readers, {}, draw, true};
}

namespace field_table {

constexpr auto required = Presence::required;
constexpr auto optional = Presence::optional;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Far past any layer, and small enough that products of three extents cannot overflow.
constexpr double kLargestSize = 1 << 20;

constexpr Anything any{};
constexpr Between size{1, kLargestSize, "want a size from 1 to 2^20"};
constexpr Between not_negative{0, kInfinity, "want 0 or more"};
constexpr Between clamp_limit{0, kInfinity, "want 0 (off) or more"};
constexpr Between rounds{1, 10000, "want 1 to 10000"};
constexpr Between ranks{1, 1024, "want 1 to 1024"};

constexpr std::string_view gates = "gate bias_update moe";
constexpr std::string_view experts = "experts moe init";
constexpr std::string_view routed = "gate aux_loss bias_update fake_balanced_gate experts moe";
constexpr std::string_view sized = "gate bias_update fake_balanced_gate experts moe init";
constexpr std::string_view all = "all but mlp";

}  // namespace field_table

template <typename Struct>
struct Fields;

template <>
struct Fields<MoEConfig> {
  using C = MoEConfig;
  static constexpr auto rows = [] {
    using namespace field_table;
    return std::tuple{
        field("n_routed_experts", &C::n_routed_experts, required, size, "E: experts to choose from", all),
        field("n_shared_experts", &C::n_shared_experts, required, Between{0, kLargestSize, "want 0 or more"},
              "experts that every token passes; 0 = none", "moe init"),
        field("n_activated_experts", &C::n_activated_experts, required, any, "k: experts per token", routed),
        field("n_expert_groups", &C::n_expert_groups, required, size, "G: groups of experts", gates),
        field("n_limited_groups", &C::n_limited_groups, required, size, "groups that a token may use", gates),
        field("train_gate", &C::train_gate, required, any, "the gate's parameters get gradients", "gate moe"),
        field("gate_bias_update_factor", &C::gate_bias_update_factor, required, not_negative,
              "step of the correction bias; 0 = no update", gates),
        field("aux_loss_coeff", &C::aux_loss_coeff, required, not_negative,
              "weight of the auxiliary loss; 0 = none", "gate moe"),
        field("score_func", &C::score_func, required, any, "scores from logits", gates),
        field("route_scale", &C::route_scale, required, any, "factor on the routing weights", "gate moe"),
        field("dim", &C::dim, required, size, "D: width of tokens", sized),
        field("inter_dim", &C::inter_dim, required, size, "width of the model's dense layers", "none"),
        field("moe_inter_dim", &C::moe_inter_dim, required, size, "I: width inside an expert", experts),
        field("norm_topk_prob", &C::norm_topk_prob, required, any, "routing weights of a token sum to 1",
              "gate moe"),
        field("softmax_before_topk", &C::softmax_before_topk, optional, any,
              "softmax over all experts, else over the selected ones", gates),
        field("router_bias", &C::router_bias, optional, any, "the gate's product has a bias",
              "gate bias_update moe init"),
        field("expert_bias", &C::expert_bias, optional, any, "experts' products have biases", experts),
        field("expert_activation", &C::expert_activation, optional, any, "activation of the experts",
              experts),
        field("activation_alpha", &C::activation_alpha, optional, any,
              "factor inside the sigmoid of swigluoai and quick_geglu", "experts moe"),
        field("activation_limit", &C::activation_limit, optional, any, "clamp of swigluoai and quick_geglu",
              "experts moe"),
        field("swiglu_limit", &C::swiglu_limit, optional, clamp_limit, "clamp of swiglu; 0 = off",
              "experts moe"),
        field("apply_router_weight_after_down", &C::apply_router_weight_after_down, optional, any,
              "routing weights multiply the expert's output, else its activation", "experts moe"),
        field("router_weights_fp32", &C::router_weights_fp32, optional, any,
              "routing weights stay in float32", "gate experts moe"),
        field("router_weight_uses_score_correction_bias", &C::router_weight_uses_score_correction_bias,
              optional, any, "routing weights of sigmoid include the correction bias", "gate moe"),
        field("dtype", &C::dtype, optional, any, "type of parameters and tokens", "all but mlp and metrics"),
        field("gate_dtype", &C::gate_dtype, optional, any,
              "type in which the gate's parameters are stored; null = dtype", "gate bias_update moe init", {},
              Drawn{12, std::array{DType::float32, DType::bfloat16, DType::float64, DType::float16}}),
        field("shared_expert_gate", &C::shared_expert_gate, optional, any,
              "a sigmoid per token scales the shared experts", "moe init"),
        field("shared_expert_inter_dim", &C::shared_expert_inter_dim, optional, size,
              "width inside a shared expert, else moe_inter_dim", "moe init"),
        field("shared_expert_activation", &C::shared_expert_activation, optional, InMLP{},
              "activation of the shared experts", "moe init"),
        field("force_e_score_correction_bias", &C::force_e_score_correction_bias, optional, any,
              "there is a correction bias without an update, too", gates),
        field("moe_latent_size", &C::moe_latent_size, optional, size, "width in which experts work, else dim",
              experts),
        field("enable_routing_replay", &C::enable_routing_replay, optional, any,
              "calls may give the expert ids", "none"),
        convention("norm_denominator", &C::norm_denominator, any,
                   "normalisation divides by sum + norm_eps, or by max(sum, norm_eps)", "gate moe",
                   Drawn{8, std::array{NormDenominator::max_of_sum_and_eps}}),
        convention("norm_eps", &C::norm_eps, Between{0, 1, "want 0 to 1"},
                   "what guards the division of a normalisation", "gate moe",
                   Drawn{8, std::array{0.125, 1e-6, 1e-12}}),
        convention("norm_at_top1", &C::norm_at_top1, any, "what norm_topk_prob divides with k = 1",
                   "gate moe", Drawn{12, std::array{Top1Norm::scores, Top1Norm::weights_and_scores}}),
        convention(
            "group_score", &C::group_score, any, "which experts' scores add up to their group's", gates,
            Drawn{12, std::array{GroupScore::largest, GroupScore::top2_sum, GroupScore::topk_over_g_sum}}),
        convention("discarded_groups", &C::discarded_groups, any,
                   "what the scores of a discarded group's experts become", gates,
                   Drawn{12, std::array{DiscardedGroups::zero, DiscardedGroups::minus_infinity}}),
        convention("logit_scale", &C::logit_scale, Positive{}, "factor on the logits before they are scored",
                   gates, Drawn{0, std::array{0.5, 2.0}}),
        convention("logit_cap", &C::logit_cap, clamp_limit,
                   "cap tanh(z / cap) is scored in place of a logit z; 0 = off", gates,
                   Drawn{0, std::array{1.0, 2.0}}),
        convention("weight_format", &C::weight_format, any,
                   "how the routed experts' weights are stored: as numbers, or as codes with scales",
                   "experts moe", Drawn{0, std::array{WeightFormat::mxfp4, WeightFormat::nvfp4}}),
        convention("activation_format", &C::activation_format, any,
                   "how the inputs of both products of quantised experts are quantised", "experts moe",
                   Drawn{0, std::array{ActivationFormat::fp8_e4m3_group128, ActivationFormat::mxfp8}}),
        convention("accumulator", &C::accumulator, any,
                   "in what the products of two quantised operands are added up", "experts moe",
                   Drawn{0, std::array{Accumulator::e8m13_promoted128}}),
        convention("null_slots", &C::null_slots, any, "which expert id marks a slot without an expert",
                   "gate aux_loss bias_update experts moe",
                   Drawn{0, std::array{NullSlots::minus_one, NullSlots::n_routed_experts}}),
        convention("selection_scores", &C::selection_scores, any,
                   "what experts are selected by: scores, or logits", gates,
                   Drawn{0, std::array{SelectionScores::logits, SelectionScores::sinkhorn}}),
        convention("router_weight_on_input", &C::router_weight_on_input, any,
                   "routing weights multiply the expert's input, and nothing after it", "experts moe",
                   Drawn{0, std::array{true}}),
        convention("per_expert_scale", &C::per_expert_scale, any,
                   "a trained factor per expert multiplies its routing weights", "gate moe init",
                   Drawn{0, std::array{true}}),
        convention("clamp_after_activation", &C::clamp_after_activation, any,
                   "swiglu_limit clamps silu(gate) in place of the gate", "experts moe",
                   Drawn{0, std::array{true}}),
        convention("centred_bias_update", &C::centred_bias_update, any,
                   "the steps of the correction bias have the mean 0", "bias_update",
                   Drawn{0, std::array{true}}),
        convention("aux_loss_factor", &C::aux_loss_factor, any,
                   "factor on the loads of the auxiliary loss: E / k, or E", "gate aux_loss moe",
                   Drawn{0, std::array{AuxLossFactor::experts}}),
        convention("aux_loss_sequences", &C::aux_loss_sequences, size,
                   "sequences of equal length whose auxiliary losses are averaged", "gate aux_loss moe",
                   Drawn{0, std::array{std::int64_t{2}, std::int64_t{3}}}),
        convention("z_loss_coeff", &C::z_loss_coeff, not_negative, "weight of the router z-loss; 0 = none",
                   "gate moe", Drawn{0, std::array{0.5, 0.001}}),
        convention("capacity_factor", &C::capacity_factor, not_negative,
                   "an expert's share of k T / E slots, past which slots are dropped; 0 = none are",
                   "gate moe", Drawn{0, std::array{1.0, 0.5}}),
        convention("min_capacity", &C::min_capacity, Between{0, kLargestSize, "want 0 or more"},
                   "the least capacity that capacity_factor gives", "gate moe",
                   Drawn{0, std::array{std::int64_t{2}}}),
        convention("expert_capacity", &C::expert_capacity, Between{0, kLargestSize, "want 0 (off) or more"},
                   "the slots that an expert takes, in place of capacity_factor; 0 = any number", "gate moe",
                   Drawn{0, std::array{std::int64_t{1}, std::int64_t{3}}}),
        convention("capacity_order", &C::capacity_order, any, "which slots of a full expert are kept",
                   "gate moe", Drawn{0, std::array{CapacityOrder::choice, CapacityOrder::weight}}),
        convention("norm_after_dropping", &C::norm_after_dropping, any,
                   "routing weights are divided by the sum over the slots that are kept", "gate moe",
                   Drawn{0, std::array{true}}),
        convention("aux_loss_counts", &C::aux_loss_counts, any,
                   "which slots of a token the loads of the auxiliary loss count", "gate aux_loss moe",
                   Drawn{0, std::array{AuxLossCounts::first_choice}}),
        convention("aux_loss_accumulated", &C::aux_loss_accumulated, any,
                   "the auxiliary loss adds the loads of earlier micro-batches to its own",
                   "gate aux_loss moe", Drawn{0, std::array{true}}),
        convention("n_identity_experts", &C::n_identity_experts, Between{0, kLargestSize, "want 0 or more"},
                   "how many of the experts, the last ones, return their input and have no parameters",
                   "experts moe init", Drawn{0, std::array{std::int64_t{1}, std::int64_t{2}}}),
        convention("n_always_selected", &C::n_always_selected, Between{0, kLargestSize, "want 0 or more"},
                   "how many of the experts, the last ones, every token has among its k", "gate moe",
                   Drawn{0, std::array{std::int64_t{1}, std::int64_t{2}}}),
        convention("sinkhorn_tolerance", &C::sinkhorn_tolerance, Positive{},
                   "the mean change of the experts' factors at which sinkhorn stops", "gate moe",
                   Drawn{0, std::array{1e-3, 1e-2}}),
        convention("router_input_norm", &C::router_input_norm, any,
                   "the gate sees tokens over their root mean square, times a trained factor per column",
                   "gate bias_update moe init", Drawn{0, std::array{true}}),
        convention("router_input_norm_eps", &C::router_input_norm_eps, Between{0, 1, "want 0 to 1"},
                   "what is added to the mean square under router_input_norm", "gate bias_update moe",
                   Drawn{0, std::array{1e-5, 0.125}}),
        convention("router_jitter", &C::router_jitter, any,
                   "the gate sees tokens times noise that the call gives (inputs/router_noise)", "gate moe",
                   Drawn{0, std::array{true}}),
        convention("situ_beta", &C::situ_beta, Positive{}, "what situ bounds the gate's factor by",
                   "experts moe", Drawn{0, std::array{1.0, 2.5}}),
        convention("situ_linear_beta", &C::situ_linear_beta, clamp_limit,
                   "what situ bounds the up half by; 0 = off", "experts moe", Drawn{0, std::array{0.0, 9.0}}),
        convention("latent_norm", &C::latent_norm, any,
                   "where rows of the latent size are divided by their root mean square, times a trained "
                   "factor per column",
                   "moe init", Drawn{0, std::array{LatentNorm::before_fc2, LatentNorm::after_fc1}}),
        convention("latent_norm_eps", &C::latent_norm_eps, Positive{},
                   "what is added to the mean square under latent_norm", "moe",
                   Drawn{0, std::array{1e-6, 0.125}}),
        convention(
            "expert_compute_dtype", &C::expert_compute_dtype, any,
            "type that the routed experts' tokens and parameters are rounded to and that they work in; "
            "null = that of the tokens",
            "experts moe", Drawn{0, std::array{DType::bfloat16, DType::float16}}),
        convention(
            "bias_update_rule", &C::bias_update_rule, any,
            "what the correction bias is updated by: the sign of mean load - load, or quantiles of the "
            "scores",
            "bias_update", Drawn{0, std::array{BiasUpdateRule::quantile}}),
        convention("bias_update_ema", &C::bias_update_ema, Between{0, 1, "want 0 to 1"},
                   "the share of the correction bias that an update by quantiles keeps", "bias_update",
                   Drawn{0, std::array{0.5, 0.9}}),
        convention("batch_loss_coeff", &C::batch_loss_coeff, not_negative,
                   "weight of a second auxiliary loss, of all tokens as one sequence; 0 = none", "gate moe",
                   Drawn{0, std::array{0.25, 0.01}}),
        convention("global_loss_coeff", &C::global_loss_coeff, not_negative,
                   "weight of a third one, of all tokens and the loads of earlier micro-batches; 0 = none",
                   "gate moe", Drawn{0, std::array{0.75, 0.02}}),
    };
  }();
};

template <>
struct Fields<MLPConfig> {
  using C = MLPConfig;
  static constexpr auto rows = [] {
    using namespace field_table;
    return std::tuple{
        field("dim", &C::dim, required, size, "width of tokens", "mlp"),
        field("inter_dim", &C::inter_dim, required, size, "width inside", "mlp"),
        field("dtype", &C::dtype, optional, any, "type of parameters and tokens", "mlp"),
        field("activation", &C::activation, optional, InMLP{}, "swiglu, relu2 or situ", "mlp"),
        field("bias", &C::bias, optional, any, "products have biases", "mlp"),
        field("swiglu_limit", &C::swiglu_limit, optional, clamp_limit, "clamp of swiglu; 0 = off", "mlp"),
        convention("situ_beta", &C::situ_beta, Positive{}, "what situ bounds the gate's factor by", "mlp",
                   NotDrawn{}),
        convention("situ_linear_beta", &C::situ_linear_beta, clamp_limit,
                   "what situ bounds the up half by; 0 = off", "mlp", NotDrawn{}),
    };
  }();
};

template <>
struct Fields<ParallelOptions> {
  using C = ParallelOptions;
  static constexpr auto rows = [] {
    using namespace field_table;
    return std::tuple{
        field("ep_size", &C::ep_size, optional, ranks, "expert-parallel ranks", "experts moe init"),
        field("cp_size", &C::cp_size, optional, ranks, "context-parallel ranks of the auxiliary loss",
              "gate moe"),
        field("dp_size", &C::dp_size, optional, ranks, "data-parallel ranks that sum their loads",
              "bias_update"),
        field("tokens_per_rank", &C::tokens_per_rank, optional, Counts{},
              "counts that sum to T; empty = as even as possible", "gate bias_update experts moe"),
        field("exchange", &C::exchange, optional, Exchange{}, "all_gather or all_to_all", "experts moe"),
    };
  }();
};

/// CallOptions' last member, `parallel`, has the table above.
template <>
struct Fields<CallOptions> {
  using C = CallOptions;
  static constexpr auto rows = [] {
    using namespace field_table;
    return std::tuple{
        field("gate_precision", &C::gate_precision, optional, any, "type in which the gate computes", gates),
        field("float32_products", &C::float32_products, optional, any,
              "operands of float32 products: as they are, or rounded to tf32",
              "gate bias_update mlp experts moe"),
        field("training", &C::training, optional, any, "there is an auxiliary loss, else evaluation", gates),
        field("fake_balanced_gate", &C::fake_balanced_gate, optional, any,
              "the balanced gate in the gate's place", "moe init"),
        field("fake_gate_noise", &C::fake_gate_noise, optional, Between{0, 1, "want 0 to 1"},
              "share of noise in the balanced gate", "fake_balanced_gate moe", "noise"),
        field("skip_first_n_experts", &C::skip_first_n_experts, optional, not_negative,
              "experts that the balanced gate leaves out", "fake_balanced_gate moe"),
        field("aux_loss_backward_scale", &C::aux_loss_backward_scale, optional, any,
              "factor on the gradient of the auxiliary loss", "gate moe"),
        field("steps", &C::steps, optional, rounds, "rounds of forwards and one update", "bias_update"),
        field("micro_batches", &C::micro_batches, optional, rounds, "forwards per round", "bias_update"),
        field("init_std", &C::init_std, optional, not_negative, "standard deviation of the weights", "init"),
        field("fill_before", &C::fill_before, optional, any, "what every parameter holds before", "init"),
        field("torch_cpu_seed", &C::torch_cpu_seed, optional, any, "seed of PyTorch's CPU generator", "init"),
        field("seed", &C::seed, optional, any, "seed of the counter-based generator", "init"),
    };
  }();
};

/// The option by which the documented system chooses among its own code paths, which give the same results:
/// it is accepted and ignored.
inline constexpr std::string_view kIgnoredOption = "experts_backend";

/// Whether the component is one of the words of `readers`.
inline bool reads(std::string_view readers, Component component) {
  return (" " + std::string(readers) + " ").find(" " + std::string(name(component)) + " ") !=
         std::string::npos;
}

/// visit(row, member) for every field of the config or the options.
template <typename Struct, typename Visit>
void visit_config_fields(Struct& object, Visit&& visit) {
  using Plain = std::remove_const_t<Struct>;
  std::apply([&](const auto&... row) { (visit(row, object.*row.member), ...); }, Fields<Plain>::rows);
  if constexpr (std::is_same_v<Plain, CallOptions>) visit_config_fields(object.parallel, visit);
}

/// A row of the table as text, for people and for other languages.
struct FieldText {
  std::string name, type;
  nlohmann::json fallback;  ///< the default
  bool required = false;
  std::string meaning, readers;
  bool convention = false;
};
struct FieldTable {
  std::string_view name;  ///< "config", "config of mlp", "call options"
  std::vector<FieldText> fields;
};
std::vector<FieldTable> field_tables();

}  // namespace moeref
