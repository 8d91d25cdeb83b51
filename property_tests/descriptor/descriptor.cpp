// What a descriptor must be to stand for a call: its repair, and the parts of the call's config.
#include "moeref/descriptor.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moeref/error.hpp"
#include "property_tests/descriptor/extents.hpp"

namespace moeref {
namespace {

std::int64_t largest_divisor(std::int64_t of, std::int64_t most) {
  std::int64_t divisor = std::clamp<std::int64_t>(most, 1, std::max<std::int64_t>(of, 1));
  while (of % divisor != 0) --divisor;
  return divisor;
}

bool selects(const Descriptor& d) {
  return d.component == Component::gate || d.component == Component::bias_update ||
         (d.component == Component::moe && !d.fake_gate);
}

void repair_sizes(Descriptor& d) {
  const bool needs_token = d.component == Component::metrics;
  const auto clamp = [](std::int64_t& size, std::int64_t least, std::int64_t most) {
    size = std::clamp(size, least, most);
  };
  clamp(d.T, needs_token ? 1 : 0, kLargestExtent);
  clamp(d.E, 1, 1024);
  clamp(d.k, 1, d.E);
  clamp(d.config.n_identity_experts, 0, d.E - 1);
  clamp(d.D, 1, kLargestExtent);
  clamp(d.I, 1, kLargestExtent);
  clamp(d.latent, 0, kLargestExtent);
  clamp(d.shared, 0, 64);
  clamp(d.steps, 1, 64);
  clamp(d.micro, 1, 64);
  clamp(d.ranks, 1, 16);
  d.batch = d.component == Component::moe && d.T > 0 ? largest_divisor(d.T, d.batch) : 1;
  d.skip = std::clamp<std::int64_t>(d.skip, 0, d.E - 1);
  const bool balanced =
      d.component == Component::fake_balanced_gate || (d.component == Component::moe && d.fake_gate);
  if (!balanced) d.skip = 0;
  d.noise = balanced ? std::clamp(d.noise, 0.0, 1.0) : 0.0;
  // Without noise the balanced gate deals experts in turn, which repeats them once k passes their number.
  if (balanced) d.k = std::min(d.k, d.E - d.skip);
  if (d.component != Component::moe) d.fake_gate = false;
  if (d.fake_gate) d.replay = false;  // the balanced gate ignores replay (SPEC.md 4)
}

/// A rule of groups that the score function does not take goes back to its default.
void repair_group_rules(Descriptor& d) {
  MoEConfig& c = d.config;
  if (facts(d.score).selects_by_logits) c.group_score = GroupScore::by_score_func;
  const bool over_g = c.group_score == GroupScore::topk_over_g_sum;
  if (over_g && d.k < d.limited) c.group_score = GroupScore::top2_sum;
  const bool unruled = !uses_groups(d.score) && c.group_score != GroupScore::by_score_func;
  if (unruled && c.discarded_groups == DiscardedGroups::by_score_func)
    c.discarded_groups = DiscardedGroups::minus_infinity;
}

/// Groups that divide the experts, of two or more where a group's score is a sum of two, and enough of them
/// for k.
void repair_groups(Descriptor& d) {
  d.groups = largest_divisor(d.E, d.groups);
  if (d.grouped()) d.groups = largest_divisor(d.E, std::min(d.groups, std::max<std::int64_t>(1, d.E / 2)));
  while (d.grouped() && d.E / d.groups < 2) d.groups = largest_divisor(d.E, d.groups - 1);
  d.limited = std::clamp<std::int64_t>(d.limited, 1, d.groups);
  if (d.grouped()) d.k = std::min(d.k, d.limited * (d.E / d.groups));
}

/// Weights and activations are quantised in whole blocks, where the format has no others, and both per so
/// many columns as an accumulator promotes.
void repair_formats(Descriptor& d) {
  if (!has_routed_experts(d.component)) d.config.weight_format = WeightFormat::none;
  if (d.config.weight_format == WeightFormat::none) d.config.activation_format = ActivationFormat::none;
  const WeightFormatFacts& weights = facts(d.config.weight_format);
  const ActivationFormatFacts& activations = facts(d.config.activation_format);
  const std::int64_t promotion = facts(d.config.accumulator).promotion;
  if (weights.element != ElementCodec::e4m3 || weights.block_k != promotion || activations.group != promotion)
    d.config.accumulator = Accumulator::float32;
  const std::int64_t block =
      std::lcm(weights.cut_blocks ? 1 : weights.block_k, activations.cut_groups ? 1 : activations.group);
  const auto whole = [&](std::int64_t& extent) { extent = (extent + block - 1) / block * block; };
  whole(d.latent > 0 ? d.latent : d.D);
  whole(d.I);
}

/// Experts compute in a type whose numbers the layer's own holds, and with numbers.
void repair_compute_dtype(Descriptor& d) {
  const std::optional<DType> compute = d.config.expert_compute_dtype;
  if (!compute) return;
  if (d.config.weight_format != WeightFormat::none || unit_roundoff(*compute) < unit_roundoff(d.dtype) ||
      largest(*compute) > largest(d.dtype))
    d.config.expert_compute_dtype.reset();
}

void repair_gate(Descriptor& d) {
  std::int64_t& always = d.config.n_always_selected;
  always = d.grouped() || d.factor > 0.0 || d.config.n_identity_experts > 0
               ? 0
               : std::clamp<std::int64_t>(always, 0, d.k - 1);
  if (d.component == Component::bias_update) {
    if (d.factor <= 0.0) d.factor = 0x1p-10;
    d.eval = false;
  }
  if (d.factor > 0.0) d.frozen = false;
  if (d.factor > 0.0 && d.correction == Correction::none) d.correction = Correction::zero;
  d.aux = std::max(d.aux, 0.0);
  if (d.grouped() || d.k == d.E || facts(d.score).selects_by_logits)
    d.config.bias_update_rule = BiasUpdateRule::sign_of_load;
  // The identity needs a column of x for each expert; every other kind of logits is a sum of products.
  const bool identity = d.logits != Logits::rough && d.logits != Logits::whole;
  if (selects(d) && identity) d.D = std::max(d.D, d.E);
  if (d.component != Component::bias_update) d.steps = d.micro = 1;
}

void repair_ranks(Descriptor& d) {
  switch (d.component) {
    case Component::gate:
      d.rank_kind = RankKind::context;
      break;
    case Component::bias_update:
      d.rank_kind = RankKind::data;
      break;
    case Component::experts:
      d.rank_kind = RankKind::expert;
      break;
    case Component::moe:
      if (d.rank_kind == RankKind::data) d.rank_kind = RankKind::expert;
      break;
    case Component::init:
      d.rank_kind = RankKind::expert;
      break;
    default:
      d.ranks = 1;
  }
  if (d.rank_kind == RankKind::expert) d.ranks = largest_divisor(d.E - d.config.n_identity_experts, d.ranks);
  if (d.ranks == 1) {
    d.spread = Spread::even;
    d.all_to_all = false;
    d.rank_kind = RankKind::expert;
  }
  if (d.rank_kind != RankKind::expert) d.all_to_all = false;
  if (d.component == Component::init) d.spread = Spread::even;
}

}  // namespace

void repair(Descriptor& d) {
  if (d.component == Component::mlp && !facts(d.activation).in_mlp) d.activation = ActivationKind::swiglu;
  repair_sizes(d);
  repair_group_rules(d);
  repair_groups(d);
  repair_gate(d);
  repair_formats(d);
  repair_compute_dtype(d);
  repair_ranks(d);
  if (d.poison != NonFinite::none && d.T == 0) d.poison = NonFinite::none;
  d.limit = std::max(d.limit, 0.0);
  if (d.std <= 0.0) d.std = 0.02;
  // The other rows need k experts beside the one whose rows are counted.
  d.rows = std::clamp<std::int64_t>(d.rows, 0, d.T);
  if (d.rows == 0 && d.ids == Ids::rows) d.ids = Ids::distinct;
  if (d.rows < d.T && d.E <= d.k && d.ids == Ids::rows) d.ids = Ids::distinct;
  if (d.ids != Ids::rows) d.rows = 0;
}

MoEConfig moe_config(const Descriptor& d) {
  MoEConfig c = d.config;
  c.n_routed_experts = d.E;
  c.n_shared_experts = d.shared;
  c.n_activated_experts = d.k;
  c.n_expert_groups = d.groups;
  c.n_limited_groups = d.limited;
  c.train_gate = !d.frozen;
  c.gate_bias_update_factor = d.factor;
  c.aux_loss_coeff = d.aux;
  c.score_func = d.score;
  c.route_scale = d.scale;
  c.dim = d.D;
  c.inter_dim = d.I;
  c.moe_inter_dim = d.I;
  c.norm_topk_prob = d.norm;
  c.softmax_before_topk = d.before_topk;
  c.router_bias = d.router_bias;
  c.expert_bias = d.expert_bias;
  c.expert_activation = d.activation;
  if (facts(d.activation).clamp == ClampField::activation_limit)
    c.activation_limit = d.limit;
  else
    c.swiglu_limit = d.limit;
  c.apply_router_weight_after_down = d.after_down;
  c.router_weights_fp32 = d.weights_fp32;
  c.router_weight_uses_score_correction_bias = d.biased_weights;
  c.dtype = d.dtype;
  c.shared_expert_gate = d.shared_gate;
  const bool situ = d.activation == ActivationKind::situ;  // of all experts, as Kimi K3's
  c.shared_expert_activation = d.shared_relu2 ? ActivationKind::relu2
                               : situ         ? ActivationKind::situ
                                              : ActivationKind::swiglu;
  c.force_e_score_correction_bias = d.has_correction() && d.factor == 0.0;
  if (d.latent > 0) c.moe_latent_size = d.latent;
  c.enable_routing_replay = d.replay;
  return c;
}

MLPConfig mlp_config(const Descriptor& d) {
  MLPConfig c;
  c.dim = d.D;
  c.inter_dim = d.I;
  c.dtype = d.dtype;
  c.activation = d.activation;
  c.bias = d.expert_bias;
  c.swiglu_limit = d.limit;
  c.situ_beta = d.config.situ_beta;
  c.situ_linear_beta = d.config.situ_linear_beta;
  return c;
}

std::vector<std::int64_t> tokens_per_rank(const Descriptor& d) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(d.ranks), 0);
  const auto ranks = static_cast<std::int64_t>(out.size());
  switch (d.spread) {
    case Spread::even:
      for (std::int64_t r = 0; r < ranks; ++r)
        out[static_cast<std::size_t>(r)] = d.T / ranks + (r < d.T % ranks);
      break;
    case Spread::uneven:  // the later a rank, the more tokens
      for (std::int64_t t = 0; t < d.T; ++t) {
        const double u = (static_cast<double>(t) + 0.5) / static_cast<double>(d.T);
        ++out[static_cast<std::size_t>(std::min<double>(
            static_cast<double>(ranks - 1), std::floor(std::sqrt(u) * static_cast<double>(ranks))))];
      }
      break;
    case Spread::idle: {  // all but one rank, which the seed chooses
      const std::int64_t idle = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(ranks));
      for (std::int64_t t = 0; t < d.T && ranks > 1; ++t)
        ++out[static_cast<std::size_t>((idle + 1 + t % (ranks - 1)) % ranks)];
      break;
    }
  }
  return out;
}

nlohmann::json call_options(const Descriptor& d) {
  nlohmann::json out = nlohmann::json::object();
  if (d.precision) out["gate_precision"] = name(*d.precision);
  if (d.products != Float32Products::float32) out["float32_products"] = name(d.products);
  if (d.eval) out["training"] = false;
  if (d.fake_gate) out["fake_balanced_gate"] = true;
  if (d.noise > 0.0) out[d.component == Component::moe ? "fake_gate_noise" : "noise"] = d.noise;
  if (d.skip > 0) out["skip_first_n_experts"] = d.skip;
  if (d.aux_scale != 1.0) out["aux_loss_backward_scale"] = d.aux_scale;
  if (d.component == Component::bias_update) {
    out["steps"] = d.steps;
    out["micro_batches"] = d.micro;
  }
  if (d.component == Component::init) {
    out["seed"] = d.seed;
    out["init_std"] = d.std;
  }
  if (d.ranks == 1) return out;
  out[d.rank_kind == RankKind::expert    ? "ep_size"
      : d.rank_kind == RankKind::context ? "cp_size"
                                         : "dp_size"] = d.ranks;
  if (d.component == Component::init) return out;
  if (d.spread != Spread::even) out["tokens_per_rank"] = tokens_per_rank(d);
  if (d.all_to_all) out["exchange"] = "all_to_all";
  return out;
}

}  // namespace moeref
