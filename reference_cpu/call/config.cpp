#include "moeref/config.hpp"

#include <array>
#include <cmath>
#include <functional>

#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 5> kScoreFuncs{"softmax", "sigmoid", "sigmoid_with_bias",
                                                      "softmax_with_bias", "sqrtsoftplus"};
constexpr std::array<std::string_view, 5> kActivations{"swiglu", "swigluoai", "quick_geglu", "geglu",
                                                       "relu2"};

[[noreturn]] void fail(std::string_view field, const json& value, std::string_view want) {
  throw InputError("config field '" + std::string(field) + "' is " + value.dump() + ": " + std::string(want));
}

template <typename Enum, std::size_t N>
Enum parse_name(std::string_view field, const json& value, const std::array<std::string_view, N>& names) {
  std::string want = "want one of";
  for (const auto candidate : names) want += " " + std::string(candidate);
  if (!value.is_string()) fail(field, value, want);
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == value.get<std::string>()) return static_cast<Enum>(i);
  fail(field, value, want);
}

// One overload per member type; each says what it wants.
void read(std::string_view f, const json& v, bool& out) {
  if (!v.is_boolean()) fail(f, v, "want true or false");
  out = v.get<bool>();
}
void read(std::string_view f, const json& v, std::int64_t& out) {
  if (!v.is_number_integer()) fail(f, v, "want an integer");
  if (v.is_number_unsigned() && v.get<std::uint64_t>() > 0x7fffffffffffffffu)
    fail(f, v, "want an integer below 2^63");
  out = v.get<std::int64_t>();
}
void read(std::string_view f, const json& v, std::uint64_t& out) {
  if (!v.is_number_integer() || (!v.is_number_unsigned() && v.get<std::int64_t>() < 0))
    fail(f, v, "want a non-negative integer");
  out = v.get<std::uint64_t>();
}
void read(std::string_view f, const json& v, double& out) {
  if (!v.is_number() || !std::isfinite(v.get<double>())) fail(f, v, "want a finite number");
  out = v.get<double>();
}
void read(std::string_view f, const json& v, ScoreFunc& out) {
  out = parse_name<ScoreFunc>(f, v, kScoreFuncs);
}
void read(std::string_view f, const json& v, ActivationKind& out) {
  out = parse_name<ActivationKind>(f, v, kActivations);
}
void read(std::string_view f, const json& v, DType& out) {
  if (!v.is_string()) fail(f, v, "want a dtype name");
  out = parse_dtype(v.get<std::string>());
  if (!is_floating(out)) fail(f, v, "want float64, float32, bfloat16 or float16");
}
void read(std::string_view f, const json& v, std::string& out) {
  if (!v.is_string()) fail(f, v, "want a text");
  out = v.get<std::string>();
}
void read(std::string_view f, const json& v, std::vector<std::int64_t>& out) {
  if (!v.is_array()) fail(f, v, "want a list of integers");
  out.clear();
  for (const json& item : v) read(f, item, out.emplace_back());
}
template <typename T>
void read(std::string_view f, const json& v, std::optional<T>& out) {
  if (v.is_null())
    out.reset();
  else
    read(f, v, out.emplace());
}

json write(bool v) { return v; }
json write(std::int64_t v) { return v; }
json write(double v) { return v; }
json write(ScoreFunc v) { return name(v); }
json write(ActivationKind v) { return name(v); }
json write(DType v) { return name(v); }
template <typename T>
json write(const std::optional<T>& v) {
  return v ? write(*v) : json();
}

enum class Presence : std::uint8_t { required, optional };

/// The tables: every field once, with its name. `visit(name, member, presence)`.
template <typename Config, typename Visit>
void visit_moe(Config& c, Visit&& visit) {
  constexpr auto required = Presence::required;
  constexpr auto optional = Presence::optional;
  visit("n_routed_experts", c.n_routed_experts, required);
  visit("n_shared_experts", c.n_shared_experts, required);
  visit("n_activated_experts", c.n_activated_experts, required);
  visit("n_expert_groups", c.n_expert_groups, required);
  visit("n_limited_groups", c.n_limited_groups, required);
  visit("train_gate", c.train_gate, required);
  visit("gate_bias_update_factor", c.gate_bias_update_factor, required);
  visit("aux_loss_coeff", c.aux_loss_coeff, required);
  visit("score_func", c.score_func, required);
  visit("route_scale", c.route_scale, required);
  visit("dim", c.dim, required);
  visit("inter_dim", c.inter_dim, required);
  visit("moe_inter_dim", c.moe_inter_dim, required);
  visit("norm_topk_prob", c.norm_topk_prob, required);
  visit("router_bias", c.router_bias, optional);
  visit("expert_bias", c.expert_bias, optional);
  visit("expert_activation", c.expert_activation, optional);
  visit("apply_router_weight_after_down", c.apply_router_weight_after_down, optional);
  visit("activation_alpha", c.activation_alpha, optional);
  visit("activation_limit", c.activation_limit, optional);
  visit("swiglu_limit", c.swiglu_limit, optional);
  visit("softmax_before_topk", c.softmax_before_topk, optional);
  visit("router_weights_fp32", c.router_weights_fp32, optional);
  visit("router_weight_uses_score_correction_bias", c.router_weight_uses_score_correction_bias, optional);
  visit("dtype", c.dtype, optional);
  visit("gate_dtype", c.gate_dtype, optional);
  visit("shared_expert_gate", c.shared_expert_gate, optional);
  visit("shared_expert_inter_dim", c.shared_expert_inter_dim, optional);
  visit("shared_expert_activation", c.shared_expert_activation, optional);
  visit("force_e_score_correction_bias", c.force_e_score_correction_bias, optional);
  visit("moe_latent_size", c.moe_latent_size, optional);
  visit("enable_routing_replay", c.enable_routing_replay, optional);
}

template <typename Config, typename Visit>
void visit_mlp(Config& c, Visit&& visit) {
  visit("dim", c.dim, Presence::required);
  visit("inter_dim", c.inter_dim, Presence::required);
  visit("dtype", c.dtype, Presence::optional);
  visit("activation", c.activation, Presence::optional);
  visit("bias", c.bias, Presence::optional);
  visit("swiglu_limit", c.swiglu_limit, Presence::optional);
}

/// Reads every field of the table and refuses the ones it does not know.
template <typename Config, typename Table>
Config parse(const json& object, std::string_view what, Table&& table) {
  if (!object.is_object())
    throw InputError(std::string(what) + " is not a JSON object: " + object.dump().substr(0, 80));
  Config config;
  std::size_t known = 0;
  table(config, [&](const char* field, auto& member, Presence presence) {
    const auto it = object.find(field);
    if (it != object.end()) {
      ++known;
      read(field, *it, member);
    } else if (presence == Presence::required) {
      throw InputError(std::string(what) + " lacks the field '" + field + "'");
    }
  });
  if (known != object.size())
    for (const auto& [key, value] : object.items()) {
      bool found = false;
      table(config, [&, &key = key](const char* field, auto&, Presence) { found = found || key == field; });
      if (!found) throw InputError(std::string(what) + " has an unknown field '" + key + "'");
    }
  return config;
}

template <typename Config, typename Table>
json unparse(const Config& config, Table&& table) {
  json out = json::object();
  const Config defaults;
  table(config, [&](const char* field, const auto& member, Presence presence) {
    table(defaults, [&](const char* other, const auto& fallback, Presence) {
      if constexpr (std::is_same_v<decltype(member), decltype(fallback)>)
        if (std::string_view(field) == other && (presence == Presence::required || member != fallback))
          out[field] = write(member);
    });
  });
  return out;
}

void want(bool ok, std::string_view field, const json& value, std::string_view what) {
  if (!ok) fail(field, value, what);
}

// Far past any layer, and small enough that products of three extents cannot overflow.
constexpr std::int64_t kLargestExtent = std::int64_t{1} << 20;

void want_size(std::string_view field, std::int64_t value) {
  want(value >= 1 && value <= kLargestExtent, field, value, "want a size from 1 to 2^20");
}

void check(const MoEConfig& c) {
  want_size("n_routed_experts", c.n_routed_experts);
  want_size("dim", c.dim);
  want_size("moe_inter_dim", c.moe_inter_dim);
  want_size("inter_dim", c.inter_dim);
  want_size("n_expert_groups", c.n_expert_groups);
  want_size("n_limited_groups", c.n_limited_groups);
  want(c.n_shared_experts >= 0 && c.n_shared_experts <= kLargestExtent, "n_shared_experts",
       c.n_shared_experts, "want 0 or more");
  want(c.n_activated_experts >= 1 && c.n_activated_experts <= c.n_routed_experts, "n_activated_experts",
       c.n_activated_experts, "want 1 to n_routed_experts = " + std::to_string(c.n_routed_experts));
  want(c.n_routed_experts % c.n_expert_groups == 0, "n_expert_groups", c.n_expert_groups,
       "want a divisor of n_routed_experts = " + std::to_string(c.n_routed_experts));
  want(c.n_limited_groups <= c.n_expert_groups, "n_limited_groups", c.n_limited_groups,
       "want 1 to n_expert_groups = " + std::to_string(c.n_expert_groups));
  const std::int64_t group = c.n_routed_experts / c.n_expert_groups;
  const bool grouped =
      c.n_expert_groups > 1 && c.score_func != ScoreFunc::softmax && c.score_func != ScoreFunc::sqrtsoftplus;
  want(!grouped || c.n_activated_experts <= c.n_limited_groups * group, "n_activated_experts",
       c.n_activated_experts,
       "want at most n_limited_groups * n_routed_experts / n_expert_groups = " +
           std::to_string(c.n_limited_groups * group));
  const bool top2 = grouped && (c.score_func != ScoreFunc::sigmoid || c.has_correction_bias());
  want(!top2 || group >= 2, "n_expert_groups", c.n_expert_groups,
       "want groups of two experts or more, since a group's score is the sum of its two largest");
  want(c.gate_bias_update_factor >= 0.0, "gate_bias_update_factor", c.gate_bias_update_factor,
       "want 0 or more");
  want(c.gate_bias_update_factor == 0.0 || c.train_gate, "gate_bias_update_factor", c.gate_bias_update_factor,
       "a bias update needs train_gate = true");
  want(c.aux_loss_coeff >= 0.0, "aux_loss_coeff", c.aux_loss_coeff, "want 0 or more");
  want(c.swiglu_limit >= 0.0, "swiglu_limit", c.swiglu_limit, "want 0 (off) or more");
  want(c.expert_activation != ActivationKind::quick_geglu || c.activation_limit >= 0.0, "activation_limit",
       c.activation_limit, "want 0 or more with quick_geglu, whose clamps are always on");
  want(c.shared_expert_activation == ActivationKind::swiglu ||
           c.shared_expert_activation == ActivationKind::relu2,
       "shared_expert_activation", name(c.shared_expert_activation), "want swiglu or relu2");
  if (c.shared_expert_inter_dim) want_size("shared_expert_inter_dim", *c.shared_expert_inter_dim);
  if (c.moe_latent_size) want_size("moe_latent_size", *c.moe_latent_size);
}

}  // namespace

std::string_view name(ScoreFunc score_func) { return kScoreFuncs[static_cast<std::size_t>(score_func)]; }
std::string_view name(ActivationKind activation) {
  return kActivations[static_cast<std::size_t>(activation)];
}

MoEConfig parse_moe_config(const json& object) {
  auto config = parse<MoEConfig>(object, "the config", [](auto& c, auto&& v) { visit_moe(c, v); });
  check(config);
  return config;
}

MLPConfig parse_mlp_config(const json& object) {
  auto config = parse<MLPConfig>(object, "the config", [](auto& c, auto&& v) { visit_mlp(c, v); });
  want_size("dim", config.dim);
  want_size("inter_dim", config.inter_dim);
  want(config.activation == ActivationKind::swiglu || config.activation == ActivationKind::relu2,
       "activation", name(config.activation), "want swiglu or relu2");
  want(config.swiglu_limit >= 0.0, "swiglu_limit", config.swiglu_limit, "want 0 (off) or more");
  return config;
}

CallOptions parse_call_options(const json& object) {
  if (!object.is_object())
    throw InputError("the call options are not a JSON object: " + object.dump().substr(0, 80));
  CallOptions out;
  for (const auto& [key, value] : object.items()) {
    if (key == "gate_precision")
      read(key, value, out.gate_precision);
    else if (key == "training")
      read(key, value, out.training);
    else if (key == "fake_balanced_gate")
      read(key, value, out.fake_balanced_gate);
    else if (key == "fake_gate_noise" || key == "noise")
      read(key, value, out.fake_gate_noise);
    else if (key == "skip_first_n_experts")
      read(key, value, out.skip_first_n_experts);
    else if (key == "aux_loss_backward_scale")
      read(key, value, out.aux_loss_backward_scale);
    else if (key == "steps")
      read(key, value, out.steps);
    else if (key == "micro_batches")
      read(key, value, out.micro_batches);
    else if (key == "init_std")
      read(key, value, out.init_std);
    else if (key == "fill_before")
      read(key, value, out.fill_before);
    else if (key == "torch_cpu_seed")
      read(key, value, out.torch_cpu_seed);
    else if (key == "seed")
      read(key, value, out.seed);
    else if (key == "ep_size")
      read(key, value, out.parallel.ep_size);
    else if (key == "cp_size")
      read(key, value, out.parallel.cp_size);
    else if (key == "dp_size")
      read(key, value, out.parallel.dp_size);
    else if (key == "tokens_per_rank")
      read(key, value, out.parallel.tokens_per_rank);
    else if (key == "exchange")
      read(key, value, out.parallel.exchange);
    else if (key == "experts_backend")
      continue;  // which of its code paths the documented system took; same contract
    else
      throw InputError("the call options have an unknown field '" + key + "'");
  }
  want(out.fake_gate_noise >= 0.0 && out.fake_gate_noise <= 1.0, "noise", out.fake_gate_noise, "want 0 to 1");
  want(out.skip_first_n_experts >= 0, "skip_first_n_experts", out.skip_first_n_experts, "want 0 or more");
  want(out.steps >= 1 && out.steps <= 10000, "steps", out.steps, "want 1 to 10000");
  want(out.micro_batches >= 1 && out.micro_batches <= 10000, "micro_batches", out.micro_batches,
       "want 1 to 10000");
  want(out.init_std >= 0.0, "init_std", out.init_std, "want 0 or more");
  const ParallelOptions& p = out.parallel;
  for (const auto& [field, ranks] :
       {std::pair{"ep_size", p.ep_size}, {"cp_size", p.cp_size}, {"dp_size", p.dp_size}})
    want(ranks >= 1 && ranks <= 1024, field, ranks, "want 1 to 1024");
  want((p.ep_size > 1) + (p.cp_size > 1) + (p.dp_size > 1) <= 1, "ep_size", p.ep_size,
       "want one of ep_size, cp_size and dp_size above 1 at most");
  want(p.tokens_per_rank.empty() || static_cast<std::int64_t>(p.tokens_per_rank.size()) == p.size(),
       "tokens_per_rank", p.tokens_per_rank, "want one count a rank");
  for (const std::int64_t tokens : p.tokens_per_rank)
    want(tokens >= 0, "tokens_per_rank", p.tokens_per_rank, "want counts of 0 or more");
  want(out.parallel.exchange == "all_gather" || out.parallel.exchange == "all_to_all", "exchange",
       out.parallel.exchange, "want all_gather or all_to_all");
  return out;
}

json to_json(const MoEConfig& config) {
  return unparse(config, [](auto& c, auto&& v) { visit_moe(c, v); });
}
json to_json(const MLPConfig& config) {
  return unparse(config, [](auto& c, auto&& v) { visit_mlp(c, v); });
}

}  // namespace moeref
