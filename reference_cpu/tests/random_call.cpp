#include "reference_cpu/tests/random_call.hpp"

#include <cmath>
#include <random>

#include "moeref/signature.hpp"

namespace moeref {
namespace {

/// Draws from one stream; the standard library's distributions differ between platforms, so none is used.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : bits_(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(bits_() % static_cast<std::uint64_t>(n));
  }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }
  double normal() {
    double sum = 0.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum - 6.0;
  }
  template <typename T>
  T of(std::initializer_list<T> from) {
    return from.begin()[below(static_cast<std::int64_t>(from.size()))];
  }

 private:
  std::mt19937_64 bits_;
};

void draw_gate(Draw& d, MoEConfig& c) {
  c.score_func = static_cast<ScoreFunc>(d.below(5));
  c.n_routed_experts = d.of<std::int64_t>({1, 2, 4, 6, 8, 8, 12, 16});
  c.softmax_before_topk = d.chance(0.5);
  c.norm_topk_prob = d.chance(0.6);
  c.route_scale = d.of({1.0, 2.5, 0.3, 16.0});
  c.router_bias = d.chance(0.5);
  c.router_weights_fp32 = d.chance(0.3);
  c.aux_loss_coeff = d.of({0.0, 0.01, 1.0, 37.0});
  c.force_e_score_correction_bias = d.chance(0.5);
  if (d.chance(0.3)) c.gate_bias_update_factor = d.of({0.001, 0.1});
  c.train_gate = c.gate_bias_update_factor > 0.0 || d.chance(0.8);
  c.router_weight_uses_score_correction_bias = d.chance(0.5);
  if (c.n_routed_experts >= 4 && d.chance(0.5)) {
    c.n_expert_groups = c.n_routed_experts % 4 == 0 && c.n_routed_experts >= 8 && d.chance(0.5) ? 4 : 2;
    c.n_limited_groups = 1 + d.below(c.n_expert_groups);
  }
  const bool grouped = c.n_expert_groups > 1;
  const std::int64_t most =
      grouped ? c.n_limited_groups * c.n_routed_experts / c.n_expert_groups : c.n_routed_experts;
  c.n_activated_experts = d.chance(0.15)  ? most
                          : d.chance(0.2) ? 1
                                          : 1 + d.below(std::min<std::int64_t>(most, 6));
}

void draw_experts(Draw& d, MoEConfig& c) {
  c.expert_activation = static_cast<ActivationKind>(d.below(5));
  c.expert_bias = d.chance(0.5);
  c.apply_router_weight_after_down = d.chance(0.4);
  c.activation_limit = d.of({7.0, 0.7, 6.9, 1e4});
  if (c.expert_activation == ActivationKind::swigluoai && d.chance(0.3)) c.activation_limit = 0.0;
  c.activation_alpha = d.of({1.702, 1.0, 0.3});
  c.swiglu_limit = d.of({0.0, 0.0, 10.0, 0.6});
}

MoEConfig draw_config(Draw& d, Component component, DType dtype) {
  MoEConfig c;
  c.dtype = dtype;
  c.dim = 1 + d.below(d.chance(0.2) ? 40 : 9);
  c.inter_dim = 8;
  c.moe_inter_dim = 1 + d.below(7);
  draw_gate(d, c);
  draw_experts(d, c);
  if (component == Component::bias_update && c.gate_bias_update_factor == 0.0) {
    c.gate_bias_update_factor = 0.01;
    c.train_gate = true;
  }
  const bool top2 = c.score_func != ScoreFunc::sigmoid || c.has_correction_bias();
  if (top2 && c.n_routed_experts < 2 * c.n_expert_groups) c.n_expert_groups = c.n_limited_groups = 1;
  if (component != Component::moe) return c;
  if (d.chance(0.3)) c.moe_latent_size = 1 + d.below(6);
  if (d.chance(0.5)) {
    c.n_shared_experts = 1 + d.below(2);
    c.shared_expert_gate = d.chance(0.5);
    c.shared_expert_activation = d.of({ActivationKind::swiglu, ActivationKind::relu2});
    if (d.chance(0.3)) c.shared_expert_inter_dim = 3;
  }
  return c;
}

/// At times the gate is stored in another type than the layer. Drawn apart, so that all else stays the same.
void draw_gate_dtype(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  Draw d(seed);
  if (numbers == Numbers::adversarial && d.chance(0.2))
    c.gate_dtype = d.of({DType::float32, DType::bfloat16, DType::float64, DType::float16});
}

/// Rules beyond the documented system's in half of the calls, drawn apart likewise. Ordinary numbers are
/// neither divided by a tiny eps, as sums of biased scores below it are, nor scored far from 0, which
/// bfloat16 leaves open.
void draw_conventions(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  const bool ordinary = numbers == Numbers::ordinary;
  Draw d(seed * 0xD1B54A32D192ED03u + 1);
  if (d.chance(0.5)) return;
  const bool maximum = d.chance(0.5), may_cancel = c.router_weight_uses_score_correction_bias;
  if (maximum && !(ordinary && may_cancel)) c.norm_denominator = NormDenominator::max_of_sum_and_eps;
  c.norm_eps = d.of({1e-20, 0.0, 1e-6, 1e-9, 1e-12, 1e-15, 0.1, 0.5});
  c.norm_at_top1 = static_cast<Top1Norm>(d.below(3));
  if (d.chance(0.3)) c.logit_scale = d.of({0.5, ordinary ? 1.5 : 3.0, 0.1});
  if (d.chance(0.3)) c.logit_cap = d.of({1.0, 30.0, 5.0});
  c.discarded_groups = static_cast<DiscardedGroups>(d.below(3));
  const bool own = d.chance(0.7) && c.score_func != ScoreFunc::softmax;
  if (!own || c.n_routed_experts < 2 * c.n_expert_groups) return;
  c.group_score = static_cast<GroupScore>(d.below(4));
  if (c.group_score == GroupScore::topk_over_g_sum && c.n_activated_experts < c.n_limited_groups)
    c.group_score = GroupScore::top2_sum;
  if (c.score_func == ScoreFunc::sqrtsoftplus && c.discarded_groups == DiscardedGroups::by_score_func)
    c.discarded_groups = DiscardedGroups::minus_infinity;
}

/// Rules of slots and experts, drawn apart likewise. Of ordinary numbers, weights of several units on the
/// input would take the rounding of the weights into exponents.
void draw_slot_rules(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  Draw d(seed * 0xA24BAED4963EE407u + 3);
  if (d.chance(0.3)) c.null_slots = static_cast<NullSlots>(d.below(3));
  const bool weighs_corrected = c.score_func == ScoreFunc::sigmoid && c.has_correction_bias() &&
                                c.router_weight_uses_score_correction_bias;
  if (d.chance(0.3) && !weighs_corrected) c.selection_scores = SelectionScores::logits;
  c.per_expert_scale = d.chance(0.3);
  c.clamp_after_activation = d.chance(0.4);
  c.centred_bias_update = d.chance(0.4);
  if (d.chance(0.3)) c.aux_loss_factor = AuxLossFactor::experts;
  if (d.chance(0.3)) c.z_loss_coeff = d.of({0.001, 1.0, 12.0});
  if (d.chance(0.4)) c.expert_activation = static_cast<ActivationKind>(kDocumentedActivations + d.below(5));
  if (d.chance(0.3) && (numbers == Numbers::adversarial || c.route_scale <= 1.0)) {
    c.router_weight_on_input = true;
    c.apply_router_weight_after_down = false;
  }
}

/// Experts of limited capacity, drawn apart likewise. Ordinary numbers have one order of their weights.
void draw_capacity(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0x9FB21C651E98DF25u + 5);
  if (d.chance(0.7)) return;
  if (d.chance(0.5)) {
    c.capacity_factor = d.of({0.25, 0.5, 1.0, 1.25});
    c.min_capacity = d.of<std::int64_t>({0, 0, 1, 2});
  } else {
    c.expert_capacity = 1 + d.below(3);
  }
  c.capacity_order = static_cast<CapacityOrder>(d.below(3));
  c.norm_after_dropping = d.chance(0.5);
}

/// What the auxiliary loss counts, drawn apart likewise.
void draw_loss_counts(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xD6E8FEB86659FD93u + 7);
  if (d.chance(0.3)) c.aux_loss_counts = AuxLossCounts::first_choice;
  c.aux_loss_accumulated = d.chance(0.3);
}

/// Experts that return their input, drawn apart likewise; the others stay as many as ranks divide.
void draw_identity_experts(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xC2B2AE3D27D4EB4Fu + 9);
  if (d.chance(0.7) || c.n_routed_experts < 2) return;
  c.n_identity_experts = c.n_routed_experts < 8 ? c.n_routed_experts / 2 : d.of<std::int64_t>({2, 4});
}

/// Experts that every token has, drawn apart likewise.
void draw_always_selected(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xFF51AFD7ED558CCDu + 11);
  if (d.chance(0.7) || c.grouped() || c.n_identity_experts > 0 || c.gate_bias_update_factor > 0.0) return;
  c.n_always_selected = std::min<std::int64_t>(1 + d.below(2), c.n_activated_experts - 1);
}

/// Balanced choices, drawn apart likewise.
void draw_sinkhorn(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xC4CEB9FE1A85EC53u + 13);
  if (d.chance(0.8) || c.grouped() || c.has_correction_bias() || c.n_always_selected > 0) return;
  c.selection_scores = SelectionScores::sinkhorn;
  c.sinkhorn_tolerance = d.of({1e-4, 1e-4, 1e-2, 0.5});
}

/// Normalised tokens for the gate, drawn apart likewise. Ordinary numbers are not divided by nearly 0.
void draw_router_input(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  Draw d(seed * 0x94D049BB133111EBu + 15);
  c.router_input_norm = d.chance(0.5);
  c.router_input_norm_eps = numbers == Numbers::ordinary ? 1e-2 : d.of({1e-6, 1e-5, 0.0, 0.5});
  c.router_jitter = d.chance(0.3);
}

/// situ and its bounds, drawn apart likewise.
void draw_situ(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xBF58476D1CE4E5B9u + 17);
  if (d.chance(0.8)) return;
  c.expert_activation = ActivationKind::situ;
  c.situ_beta = d.of({4.0, 1.0, 0.3, 2.5});
  c.situ_linear_beta = d.of({25.0, 1.0, 0.0, 0.7});
}

/// Rows of the latent size normalised, drawn apart likewise. A norm takes the errors of a row into its
/// gradient several times over; of ordinary numbers, eps is the larger part of the mean.
void draw_latent_norm(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  Draw d(seed * 0x9E6C63D0876A9A47u + 19);
  if (!c.moe_latent_size || d.chance(0.2)) return;
  c.latent_norm = d.of({LatentNorm::before_fc2, LatentNorm::after_fc1});
  c.latent_norm_eps = numbers == Numbers::ordinary ? 4.0 : d.of({1e-5, 1e-6, 0.5});
}

/// situ of shared experts, drawn apart likewise; bounds are those of draw_situ.
void draw_shared_situ(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xA0761D6478BD642Fu + 21);
  if (c.n_shared_experts == 0 || d.chance(0.7)) return;
  c.shared_expert_activation = ActivationKind::situ;
  if (c.expert_activation == ActivationKind::situ) return;
  c.situ_beta = d.of({4.0, 1.0, 0.3, 2.5});
  c.situ_linear_beta = d.of({25.0, 1.0, 0.0, 0.7});
}

/// situ of an MLP, drawn apart likewise.
void draw_mlp_situ(std::uint64_t seed, nlohmann::json& config) {
  Draw d(seed * 0xE7037ED1A0B428DBu + 23);
  if (d.chance(0.7)) return;
  config["activation"] = "situ";
  config["situ_beta"] = d.of({4.0, 1.0, 0.3, 2.5});
  config["situ_linear_beta"] = d.of({25.0, 1.0, 0.0, 0.7});
}

/// Experts that compute in a type coarser than the layer's, drawn apart likewise. What ordinary numbers lose
/// in one of 16 bits would hide all else that float64 layers have.
void draw_compute_dtype(std::uint64_t seed, Numbers numbers, MoEConfig& c) {
  Draw d(seed * 0xE7037ED1A0B428DBu + 19);
  if (d.chance(0.75) || (c.dtype != DType::float64 && c.dtype != DType::float32)) return;
  c.expert_compute_dtype = d.of({DType::bfloat16, DType::bfloat16, DType::float16});
  if (c.dtype == DType::float64 && (numbers == Numbers::ordinary || d.chance(0.5)))
    c.expert_compute_dtype = DType::float32;
}

/// A bias set by quantiles, drawn apart likewise.
void draw_bias_update_rule(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0x8EBC6AF09C88C6E3u + 21);
  if (d.chance(0.5) || c.grouped() || c.score_func == ScoreFunc::softmax ||
      c.n_activated_experts == c.n_routed_experts)
    return;
  c.bias_update_rule = BiasUpdateRule::quantile;
  c.bias_update_ema = d.of({0.0, 0.0, 0.5, 0.9});
}

/// Further auxiliary losses, drawn apart likewise.
void draw_further_losses(std::uint64_t seed, MoEConfig& c) {
  Draw d(seed * 0xD1342543DE82EF95u + 25);
  if (d.chance(0.3)) c.batch_loss_coeff = d.of({0.01, 1.0, 5.0});
  if (d.chance(0.3)) c.global_loss_coeff = d.of({0.02, 1.0, 11.0});
}

/// Context-parallel ranks that share them, where there are none yet and no loss per sequence.
void draw_context_ranks(std::uint64_t seed, const MoEConfig& c, Component component,
                        nlohmann::json& options) {
  Draw d(seed * 0xAF251AF3B0F025B5u + 27);
  const bool whole = c.aux_loss_coeff == 0.0 || c.aux_loss_sequences == 1;
  if (!whole || (c.batch_loss_coeff == 0.0 && c.global_loss_coeff == 0.0) || options.contains("ep_size") ||
      (component != Component::gate && component != Component::moe) || d.chance(0.5))
    return;
  options["cp_size"] = d.of({2, 3});
}

nlohmann::json draw_options(Draw& d, const MoEConfig& c, Component component) {
  nlohmann::json o = nlohmann::json::object();
  if (d.chance(0.5)) o["gate_precision"] = d.of({"float32", "float64", "float32", "bfloat16", "float16"});
  if (component != Component::bias_update && d.chance(0.15)) o["training"] = false;
  if (d.chance(0.3)) o["aux_loss_backward_scale"] = d.of({0.5, 3.0, 1024.0});
  if (component == Component::bias_update) {
    o["steps"] = 1 + d.below(3);
    o["micro_batches"] = 1 + d.below(2);
  }
  const std::int64_t spread = c.experts_with_weights();
  if (has_routed_experts(component) && spread % 2 == 0 && d.chance(0.3)) {
    o["ep_size"] = spread % 4 == 0 && d.chance(0.5) ? 4 : 2;
    o["exchange"] = d.of({"all_gather", "all_to_all"});
  }
  return o;
}

/// How large the numbers are: mostly of order one, at times tiny, large, or with zeros and outliers.
struct Magnitude {
  double scale = 1.0, zeros = 0.0, outliers = 0.0;
};
Magnitude draw_magnitude(Draw& d, DType dtype, bool parameter, Numbers numbers) {
  Magnitude m;
  if (numbers == Numbers::ordinary) return {parameter ? 0.5 : 1.0, 0.0, 0.0};
  m.scale = parameter ? d.of({1.0, 0.3, 0.3, 0.02}) : d.of({1.0, 1.0, 1.0, 0.05});
  if (d.chance(0.12)) m.scale = d.of({1e-3, 10.0, 100.0, 1e-6});
  if (d.chance(0.03) && dtype != DType::float16) m.scale = d.of({1e-25, 1e5, 1e-38});
  if (d.chance(0.2)) m.zeros = 0.3;
  if (d.chance(0.1)) m.outliers = 0.1;
  return m;
}

void fill(Draw& d, Tensor& tensor, Magnitude m) {
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    double v = d.normal() * m.scale;
    if (d.chance(m.zeros)) v = 0.0;
    if (d.chance(m.outliers)) v *= 50.0;
    tensor.set(i, v);
  }
}

void fill_ids(Draw& d, Tensor& tensor, const MoEConfig& c, bool replay) {
  const std::int64_t k = c.n_activated_experts;
  const bool clean = replay || d.chance(0.6), null_in_replay = replay && c.null_slots != NullSlots::given;
  auto ids = tensor.as<std::int64_t>();
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    std::int64_t id = d.below(c.n_routed_experts);
    if (clean) {
      const auto first = ids.begin() + (i - i % k);
      while (std::find(first, first + i % k, id) != first + i % k) id = (id + 1) % c.n_routed_experts;
      if (null_in_replay && d.chance(0.15)) id = c.null_id();
    } else if (d.chance(0.15)) {
      id = c.null_id();
    }
    ids[static_cast<std::size_t>(i)] = id;
  }
}

/// Counts, from a stream of their own as fields that are drawn apart are.
void fill_loads(std::uint64_t seed, Tensor& tensor) {
  Draw d(seed + 11);
  const std::int64_t most = d.of<std::int64_t>({1, 8, 1000, 100000});
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, static_cast<double>(d.below(most)));
}

/// Correction biases: small, large, negative enough that every biased score is below 0, or a few values only.
void fill_correction(Draw& d, Tensor& tensor) {
  const double scale = d.of({0.01, 0.3, 10.0}), shift = d.of({0.0, 0.0, -2.0, -20.0});
  const bool few = d.chance(0.3);
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    tensor.set(i, shift + (few ? static_cast<double>(d.below(3)) - 1.0 : d.normal() * scale));
}

nlohmann::json mlp_config(Draw& d, DType dtype, std::int64_t& dim) {
  MLPConfig c;
  c.dtype = dtype;
  c.dim = dim = 1 + d.below(9);
  c.inter_dim = 1 + d.below(9);
  c.activation = d.of({ActivationKind::swiglu, ActivationKind::relu2});
  c.bias = d.chance(0.5);
  c.swiglu_limit = d.of({0.0, 0.0, 10.0, 0.6});
  return to_json(c);
}

}  // namespace

Call random_call(Component component, DType dtype, std::uint64_t seed, Numbers numbers, Rules rules) {
  const std::uint64_t stream = seed * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(component) * 4 +
                               static_cast<std::uint64_t>(dtype);
  Draw d(stream);
  Call call;
  call.component = component;
  call.backward = component != Component::bias_update;
  call.options = nlohmann::json::object();
  MoEConfig c;
  std::int64_t dim = 0;
  if (component == Component::mlp) {
    call.config = mlp_config(d, dtype, dim);
    if (rules == Rules::any) draw_mlp_situ(stream, call.config);
  } else {
    c = draw_config(d, component, dtype);
    draw_gate_dtype(~stream, numbers, c);
    if (rules == Rules::any) {
      draw_conventions(stream, numbers, c);
      draw_slot_rules(stream, numbers, c);
      draw_capacity(stream, c);
      draw_loss_counts(stream, c);
      draw_identity_experts(stream, c);
      draw_always_selected(stream, c);
      draw_sinkhorn(stream, c);
      draw_router_input(stream, numbers, c);
      draw_situ(stream, c);
      draw_latent_norm(stream, numbers, c);
      draw_shared_situ(stream, c);
      draw_compute_dtype(stream, numbers, c);
      draw_bias_update_rule(stream, c);
      draw_further_losses(stream, c);
    }
    call.config = to_json(c);
    call.options = draw_options(d, c, component);
  }
  const std::int64_t t = d.chance(0.04) ? 0 : d.chance(0.1) ? 1 : 1 + d.below(7);
  const Shape tokens = component == Component::moe ? Shape{t, 1 + d.below(2)} : Shape{t};
  if (rules == Rules::any && component != Component::mlp && !c.aux_loss_accumulated &&
      c.aux_loss_factor == AuxLossFactor::experts) {
    const std::int64_t all = element_count(tokens), divisor = all % 3 == 0 ? 3 : all % 2 == 0 ? 2 : all;
    c.aux_loss_sequences = std::max<std::int64_t>(divisor, 1);
    call.config = to_json(c);
  }
  if (rules == Rules::any && component != Component::mlp)
    draw_context_ranks(stream, c, component, call.options);
  // At times the activations or the parameters come in another type than the config's.
  const bool mixed = d.chance(0.12) && numbers == Numbers::adversarial;
  const DType x_type =
      mixed ? d.of({DType::float32, DType::bfloat16, DType::float64, DType::float16}) : dtype;
  const bool replays = d.chance(0.15), masks = d.chance(0.5);
  const double masked = d.of({0.3, 0.3, 1.0});
  for (const TensorSpec& spec :
       signature(component, call.config, call.options, tokens, call.backward).inputs) {
    const bool replay = spec.name.find("replay") != std::string::npos, mask = spec.dtype == DType::boolean;
    if ((replay && !replays) || (mask && !masks)) continue;
    const bool parameter = spec.name.starts_with("params/");
    const bool correction = spec.name.ends_with("correction_bias");
    Tensor tensor(parameter || !is_floating(spec.dtype) || spec.dtype != dtype ? spec.dtype : x_type,
                  spec.shape);
    if (mask) {
      for (std::int64_t i = 0; i < tensor.size(); ++i)
        tensor.set(i, d.chance(masked) == (spec.name == "inputs/padding_mask") ? 1.0 : 0.0);
    } else if (spec.name.ends_with("expert_load")) {
      fill_loads(stream, tensor);
    } else if (spec.dtype == DType::int64) {
      fill_ids(d, tensor, c, replay);
    } else if (correction) {
      fill_correction(d, tensor);
    } else if (spec.name == "inputs/original_scores") {
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, d.uniform());
    } else {
      Magnitude m = draw_magnitude(d, parameter ? spec.dtype : dtype, parameter, numbers);
      // Extreme logits, through the gate's bias or its weight.
      const bool gate_bias = spec.name.ends_with("gate.bias") || spec.name == "params/bias";
      if (gate_bias && numbers == Numbers::adversarial) m.scale = d.of({0.1, 1.0, 10.0, 1e4});
      fill(d, tensor, m);
    }
    call.tensors[spec.name] = std::move(tensor);
  }
  return call;
}

std::string describe(const Call& call) {
  std::string out = std::string(name(call.component)) + " " + call.config.dump() + " " + call.options.dump();
  for (const auto& [name, tensor] : call.tensors)
    out += " " + name + to_string(tensor.shape()) + std::string(moeref::name(tensor.dtype()));
  return out;
}

}  // namespace moeref
