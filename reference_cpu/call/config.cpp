#include "moeref/config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <type_traits>
#include <utility>

#include "moeref/error.hpp"
#include "reference_cpu/call/config_fields.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

using nlohmann::json;

static_assert(has_row_per_enumerator<kScoreFuncs>());
static_assert(has_row_per_enumerator<kActivations>());
static_assert(has_row_per_enumerator<kFloat32Products>());
static_assert(has_row_per_enumerator<kNormDenominators>());
static_assert(has_row_per_enumerator<kTop1Norms>());
static_assert(has_row_per_enumerator<kGroupScores>());
static_assert(has_row_per_enumerator<kDiscardedGroups>());
static_assert(has_row_per_enumerator<kAuxLossFactors>());
static_assert(has_row_per_enumerator<kNullSlots>());
static_assert(has_row_per_enumerator<kSelectionScores>());
static_assert(has_row_per_enumerator<kCapacityOrders>());
static_assert(has_row_per_enumerator<kAuxLossCounts>());
static_assert(has_row_per_enumerator<kLatentNorms>());
static_assert(has_row_per_enumerator<kActivationFormats>());
static_assert(has_row_per_enumerator<kBiasUpdateRules>());
static_assert(has_row_per_enumerator<kAccumulators>());

/// Whether the struct has exactly these members, in this order: one more could be left to its default.
template <typename Struct, typename... Members>
concept HasMembers = requires {
  Struct{std::declval<Members>()...};
}
&&!requires { Struct{std::declval<Members>()..., {}}; };
template <typename Struct, typename... More>
constexpr bool has_row_per_member() {
  return std::apply(
      []<typename... Members, typename... Checks, typename... Draws>(
          const Field<Struct, Members, Checks, Draws>&...) {
        return HasMembers<Struct, Members..., More...>;
      },
      Fields<Struct>::rows);
}
static_assert(has_row_per_member<MoEConfig>());
static_assert(has_row_per_member<MLPConfig>());
static_assert(has_row_per_member<ParallelOptions>());
static_assert(has_row_per_member<CallOptions, ParallelOptions>());

[[noreturn]] void fail(std::string_view field, const json& value, std::string_view want) {
  throw InputError("config field '" + std::string(field) + "' is " + value.dump() + ": " + std::string(want));
}

/// Reads a name from a table with one row per enumerator.
template <typename Table, typename Enum>
void read_name(std::string_view field, const json& value, const Table& table, Enum& out) {
  std::string want = "want one of";
  for (const auto& row : table) {
    if (value.is_string() && value.get_ref<const std::string&>() == row.name) {
      out = row.kind;
      return;
    }
    want += " " + std::string(row.name);
  }
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
void read(std::string_view f, const json& v, ScoreFunc& out) { read_name(f, v, kScoreFuncs, out); }
void read(std::string_view f, const json& v, ActivationKind& out) { read_name(f, v, kActivations, out); }
void read(std::string_view f, const json& v, Float32Products& out) { read_name(f, v, kFloat32Products, out); }
template <Convention Enum>
void read(std::string_view f, const json& v, Enum& out) {
  read_name(f, v, rows_of(out), out);
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

template <typename T>
json write(const T& v) {
  if constexpr (Convention<T>)
    return name(v);
  else
    return v;
}
json write(ScoreFunc v) { return name(v); }
json write(ActivationKind v) { return name(v); }
json write(Float32Products v) { return name(v); }
json write(DType v) { return name(v); }
template <typename T>
json write(const std::optional<T>& v) {
  return v ? write(*v) : json();
}

std::string type_of(bool) { return "bool"; }
std::string type_of(std::integral auto) { return "integer"; }
std::string type_of(double) { return "number"; }
std::string type_of(const std::string&) { return "text"; }
std::string type_of(const std::vector<std::int64_t>&) { return "integers"; }
std::string type_of(DType) { return "dtype"; }
std::string type_of(ScoreFunc) { return "score function"; }
std::string type_of(ActivationKind) { return "activation"; }
std::string type_of(Float32Products) { return "float32 products"; }
template <Convention Enum>
std::string type_of(Enum value) {
  std::string out = "one of";
  for (const auto& row : rows_of(value)) out += " " + std::string(row.name);
  return out;
}
template <typename T>
std::string type_of(const std::optional<T>&) {
  return type_of(T{}) + " or null";
}

/// Refuses a value that the row's own check does not allow.
template <typename Row, typename Member>
void check_alone(const Row& row, std::string_view field, const Member& member) {
  if (!row.check(member)) fail(field, write(member), row.check.want);
}
template <typename Row, typename T>
void check_alone(const Row& row, std::string_view field, const std::optional<T>& member) {
  if (member) check_alone(row, field, *member);
}

/// Reads every field of the table and refuses the ones it does not know. `has` is the verb of `what`.
template <typename Struct>
Struct parse(const json& object, const std::string& what, const std::string& is, const std::string& has,
             std::string_view ignored = {}) {
  if (!object.is_object())
    throw InputError(what + " " + is + " not a JSON object: " + object.dump().substr(0, 80));
  Struct out;
  json unknown = object;
  if (!ignored.empty()) unknown.erase(std::string(ignored));
  visit_config_fields(out, [&](const auto& row, auto& member) {
    for (const std::string_view field : {row.name, row.other_name}) {
      const auto it = unknown.find(std::string(field));
      if (field.empty() || it == unknown.end()) continue;
      read(field, *it, member);
      check_alone(row, field, member);
      unknown.erase(it);
      return;
    }
    if (row.presence == Presence::required)
      throw InputError(what + " lacks the field '" + std::string(row.name) + "'");
  });
  for (const auto& [key, value] : unknown.items())
    throw InputError(what + " " + has + " an unknown field '" + key + "'");
  return out;
}

template <typename Struct>
json unparse(const Struct& object, bool defaults) {
  const Struct fresh;
  json out = json::object();
  visit_config_fields(
      object, [&](const auto& row, const auto& member) { out[std::string(row.name)] = write(member); });
  if (defaults) return out;
  visit_config_fields(fresh, [&](const auto& row, const auto& fallback) {
    const auto it = out.find(std::string(row.name));
    if (row.presence == Presence::optional && *it == write(fallback)) out.erase(it);
  });
  return out;
}

template <typename Struct>
FieldTable as_text(std::string_view name) {
  const Struct fresh;
  FieldTable out{name, {}};
  visit_config_fields(fresh, [&](const auto& row, const auto& fallback) {
    const bool required = row.presence == Presence::required;
    out.fields.push_back({std::string(row.name), type_of(fallback), required ? json() : write(fallback),
                          required, std::string(row.meaning), std::string(row.readers), row.convention});
  });
  return out;
}

void want(bool ok, std::string_view field, const json& value, std::string_view what) {
  if (!ok) fail(field, value, what);
}

/// `group`: experts per group.
void check_groups(const MoEConfig& c, std::int64_t group) {
  const ScoreFuncFacts& score = facts(c.score_func);
  const std::string with_score = "with score_func " + std::string(score.name);
  const bool own_score = c.group_score != GroupScore::by_score_func;
  if (c.n_expert_groups == 1) return;
  want(!own_score || !score.selects_by_logits, "group_score", write(c.group_score),
       "want by_score_func " + with_score + ", which selects logits; softmax_with_bias selects scores");
  want(!own_score || score.groups != GroupRule::none || c.discarded_groups != DiscardedGroups::by_score_func,
       "group_score", write(c.group_score),
       "want discarded_groups zero or minus_infinity " + with_score + ", which has no rule for them");
  want(c.group_score != GroupScore::topk_over_g_sum || c.n_activated_experts >= c.n_limited_groups,
       "group_score", write(c.group_score),
       "want n_activated_experts of n_limited_groups = " + std::to_string(c.n_limited_groups) + " or more");
  want(!c.grouped() || c.summed_per_group() <= group, "n_expert_groups", c.n_expert_groups,
       "want groups of two experts or more, since a group's score is the sum of its two largest");
}

/// Blocks of weights and groups of activations along the contraction are whole, where the format has no
/// others. Activations are quantised beside quantised weights alone, and sums are promoted where the scales
/// of both change.
void check_blocks(const MoEConfig& c) {
  const auto whole = [&](std::string_view field, const json& value, std::int64_t block) {
    for (const std::int64_t k : {c.expert_dim(), c.moe_inter_dim})
      want(k % block == 0, field, value,
           "want moe_inter_dim and " + std::string(c.moe_latent_size ? "moe_latent_size" : "dim") +
               " multiples of " + std::to_string(block));
  };
  const WeightFormatFacts& weights = facts(c.weight_format);
  if (!weights.cut_blocks) whole("weight_format", write(c.weight_format), weights.block_k);
  const ActivationFormatFacts& activations = facts(c.activation_format);
  want(!c.quantises_activations() || c.weight_format != WeightFormat::none, "activation_format",
       write(c.activation_format),
       "want none where weight_format is none: its products are of two quantised operands");
  if (!activations.cut_groups) whole("activation_format", write(c.activation_format), activations.group);
  const std::int64_t promotion = facts(c.accumulator).promotion;
  want(promotion == 0 || (weights.element == ElementCodec::e4m3 && weights.block_k == promotion &&
                          activations.group == promotion),
       "accumulator", write(c.accumulator),
       "want float32, or weight_format and activation_format of e4m3 with a scale per " +
           std::to_string(promotion) + " columns");
}

/// Rounding to a type whose numbers the layer's own holds; codes are numbers of no such type.
void check_compute_dtype(const MoEConfig& c) {
  if (!c.expert_compute_dtype) return;
  const DType compute = *c.expert_compute_dtype;
  const auto refuse = [&](bool wrong, const std::string& what) {
    want(!wrong, "expert_compute_dtype", write(compute), what);
  };
  refuse(unit_roundoff(compute) < unit_roundoff(c.dtype) || largest(compute) > largest(c.dtype),
         "want null, or a type whose numbers dtype " + std::string(name(c.dtype)) + " holds");
  refuse(c.weight_format != WeightFormat::none,
         "want null with weight_format, whose codes no type of numbers rounds");
}

/// Shared experts among the routed ones.
void check_always_selected(const MoEConfig& c) {
  if (c.n_always_selected == 0) return;
  const auto refuse = [&](bool wrong, const std::string& what) {
    want(!wrong, "n_always_selected", c.n_always_selected, what);
  };
  refuse(c.n_always_selected >= c.n_activated_experts,
         "want less than n_activated_experts = " + std::to_string(c.n_activated_experts));
  refuse(c.grouped(), "want 0 where experts are selected within groups");
  refuse(c.n_identity_experts > 0, "want 0 with n_identity_experts, which are the last experts too");
  refuse(c.gate_bias_update_factor > 0.0,
         "want 0 with a bias update, whose mean load is that of experts that are chosen");
}

/// Of scores alone.
void check_sinkhorn(const MoEConfig& c) {
  if (c.selection_scores != SelectionScores::sinkhorn) return;
  want(!c.grouped() && !c.has_correction_bias() && c.n_always_selected == 0, "selection_scores",
       write(c.selection_scores), "want no groups, no correction bias and no n_always_selected with it");
}

/// An expert beyond the k of a token, among all of them.
void check_quantile(const MoEConfig& c) {
  if (c.bias_update_rule != BiasUpdateRule::quantile) return;
  want(c.n_activated_experts < c.n_routed_experts && !c.grouped() && !facts(c.score_func).selects_by_logits,
       "bias_update_rule", write(c.bias_update_rule),
       "want more experts than n_activated_experts, no groups, and another score_func than softmax, whose "
       "selection has no bias");
}

// What fields must be to each other.
void check(const MoEConfig& c) {
  want(c.n_activated_experts >= 1 && c.n_activated_experts <= c.n_routed_experts, "n_activated_experts",
       c.n_activated_experts, "want 1 to n_routed_experts = " + std::to_string(c.n_routed_experts));
  want(c.n_routed_experts % c.n_expert_groups == 0, "n_expert_groups", c.n_expert_groups,
       "want a divisor of n_routed_experts = " + std::to_string(c.n_routed_experts));
  want(c.n_limited_groups <= c.n_expert_groups, "n_limited_groups", c.n_limited_groups,
       "want 1 to n_expert_groups = " + std::to_string(c.n_expert_groups));
  const std::int64_t group = c.n_routed_experts / c.n_expert_groups;
  want(!c.grouped() || c.n_activated_experts <= c.n_limited_groups * group, "n_activated_experts",
       c.n_activated_experts,
       "want at most n_limited_groups * n_routed_experts / n_expert_groups = " +
           std::to_string(c.n_limited_groups * group));
  check_groups(c, group);
  want(c.selection_scores == SelectionScores::by_score_func || !facts(c.score_func).weighs_corrected ||
           !c.router_weight_uses_score_correction_bias || !c.has_correction_bias(),
       "selection_scores", write(c.selection_scores),
       "want by_score_func with router_weight_uses_score_correction_bias, whose weights are what is ordered");
  want(c.gate_bias_update_factor == 0.0 || c.train_gate, "gate_bias_update_factor", c.gate_bias_update_factor,
       "a bias update needs train_gate = true");
  want(!facts(c.expert_activation).always_clamps || c.activation_limit >= 0.0, "activation_limit",
       c.activation_limit,
       "want 0 or more with " + std::string(name(c.expert_activation)) + ", whose clamps are always on");
  check_blocks(c);
  check_compute_dtype(c);
  want(c.n_identity_experts < c.n_routed_experts, "n_identity_experts", c.n_identity_experts,
       "want an expert with parameters among n_routed_experts = " + std::to_string(c.n_routed_experts));
  check_always_selected(c);
  check_sinkhorn(c);
  check_quantile(c);
  want(!c.aux_loss_accumulated || c.aux_loss_sequences == 1, "aux_loss_sequences", c.aux_loss_sequences,
       "want 1 with aux_loss_accumulated, whose loads are those of whole micro-batches");
  want(c.capacity_factor == 0.0 || c.expert_capacity == 0, "expert_capacity", c.expert_capacity,
       "want 0 with capacity_factor, or capacity_factor 0");
  want(c.latent_norm == LatentNorm::none || c.moe_latent_size.has_value(), "latent_norm",
       write(c.latent_norm), "want none without moe_latent_size");
  want(!c.router_weight_on_input || !c.apply_router_weight_after_down, "router_weight_on_input",
       c.router_weight_on_input, "want one place for the weight: apply_router_weight_after_down is true");
}

void check(const ParallelOptions& p) {
  want((p.ep_size > 1) + (p.cp_size > 1) + (p.dp_size > 1) <= 1, "ep_size", p.ep_size,
       "want one of ep_size, cp_size and dp_size above 1 at most");
  want(p.tokens_per_rank.empty() || static_cast<std::int64_t>(p.tokens_per_rank.size()) == p.size(),
       "tokens_per_rank", p.tokens_per_rank, "want one count per rank");
}

}  // namespace

std::string_view name(ScoreFunc score_func) { return facts(score_func).name; }
std::string_view name(ActivationKind activation) { return facts(activation).name; }
std::string_view name(Float32Products products) {
  return kFloat32Products[static_cast<std::size_t>(products)].name;
}

std::int64_t MoEConfig::capacity(std::int64_t tokens) const {
  if (expert_capacity > 0) return expert_capacity;
  const auto slots = static_cast<double>(tokens * n_activated_experts);
  const double share = std::ceil(slots / static_cast<double>(n_routed_experts) * capacity_factor);
  // A share past all tokens drops nothing, however large.
  return std::max(static_cast<std::int64_t>(std::min(share, slots)), min_capacity);
}

MoEConfig MoEConfig::without_losses() const {
  MoEConfig out = *this;
  out.aux_loss_coeff = out.batch_loss_coeff = out.global_loss_coeff = out.z_loss_coeff = 0.0;
  return out;
}

void leave_out_losses(json& config) {
  config["aux_loss_coeff"] = 0.0;
  for (const char* coefficient : {"batch_loss_coeff", "global_loss_coeff", "z_loss_coeff"})
    config.erase(coefficient);
}

MLPConfig shared_experts_config(const MoEConfig& c) {
  return {c.dim,         c.shared_dim(), c.dtype,     c.shared_expert_activation,
          c.expert_bias, c.swiglu_limit, c.situ_beta, c.situ_linear_beta};
}

MoEConfig parse_moe_config(const json& object) {
  const auto config = parse<MoEConfig>(object, "the config", "is", "has");
  check(config);
  return config;
}
MLPConfig parse_mlp_config(const json& object) { return parse<MLPConfig>(object, "the config", "is", "has"); }
CallOptions parse_call_options(const json& object) {
  auto options = parse<CallOptions>(object, "the call options", "are", "have", kIgnoredOption);
  check(options.parallel);
  return options;
}

json to_json(const MoEConfig& config) { return unparse(config, false); }
json to_json(const MLPConfig& config) { return unparse(config, false); }

json full_json(const MoEConfig& config) { return unparse(config, true); }
json full_json(const MLPConfig& config) { return unparse(config, true); }
json full_json(const CallOptions& options) { return unparse(options, true); }

std::vector<FieldTable> field_tables() {
  return {as_text<MoEConfig>("config"), as_text<MLPConfig>("config of mlp"),
          as_text<CallOptions>("call options")};
}

}  // namespace moeref
