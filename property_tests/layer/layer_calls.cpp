#include "property_tests/layer/layer_calls.hpp"

#include <algorithm>
#include <cmath>

#include "moeref/config.hpp"

namespace moeref {

std::string expert_tensor(Component component, std::string_view group, std::string_view tensor) {
  return std::string(group) + (component == Component::moe ? "/experts." : "/") + std::string(tensor);
}

std::vector<double> dealt_ids(const Call& call) {
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor& x = call.tensors.at("inputs/x");
  std::vector<double> out;
  for (std::int64_t i = 0; i < x.size() / c.dim * c.n_activated_experts; ++i)
    out.push_back(static_cast<double>(i % c.n_routed_experts));
  return out;
}

std::vector<std::int64_t> live_ids(const Answer& answer) {
  const Call& call = answer.call();
  const Tensor* given = find(call.tensors, "inputs/indices");
  const bool balanced = parse_call_options(call.options).fake_balanced_gate;
  if (!given && !balanced) given = find(call.tensors, "inputs/replay_indices");
  const std::vector<double> ids = given      ? given->doubles()
                                  : balanced ? dealt_ids(call)
                                             : answer["outputs/indices"].doubles();
  const auto k = call.config.at("n_activated_experts").get<std::size_t>();
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < ids.size(); ++i)
    out.push_back(is_live(call, static_cast<std::int64_t>(i / k)) ? static_cast<std::int64_t>(ids[i]) : -1);
  return out;
}

bool meets(const std::vector<std::int64_t>& ids, std::int64_t k, std::int64_t token, std::int64_t expert) {
  const auto first = ids.begin() + token * k;
  return std::find(first, first + k, expert) != first + k;
}

nlohmann::json options_of_products(const Call& call) {
  nlohmann::json out = nlohmann::json::object();
  if (call.options.contains("float32_products"))
    out["float32_products"] = call.options.at("float32_products");
  return out;
}

Call with_tokens(Call call, std::span<const std::int64_t> order) {
  for (const std::string_view rows : kTokenInputs) take_in(call, rows, 0, order);
  return call;
}

Call replaying(Call call, const Answer& routed) {
  const bool balanced = parse_call_options(call.options).fake_balanced_gate;
  if (!balanced && (call.component == Component::gate || call.component == Component::moe)) {
    if (!routed.has("outputs/indices")) throw NotSupported("it does not give out its expert ids");
    call.tensors["inputs/replay_indices"] = routed["outputs/indices"];
    call.config["enable_routing_replay"] = true;
  }
  return call;
}

void change_slice(Tensor& tensor, std::int64_t i, const std::function<double(double)>& f) {
  const std::int64_t width = tensor.size() / tensor.extent(0);
  for (std::int64_t c = i * width; c < (i + 1) * width; ++c) tensor.set(c, f(tensor[c]));
}

void change_expert(Call& call, std::int64_t expert, const std::function<double(double)>& f) {
  for (const std::string_view tensor : kExpertTensors) {
    const auto found = call.tensors.find(expert_tensor(call.component, "params", tensor));
    if (found != call.tensors.end()) change_slice(found->second, expert, f);
  }
}

void require_decided(const Answer& answer) {
  if (!answer.all_decided()) throw Discarded("a token's selection is undecided");
}

void expect_rows(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text,
                 const std::function<bool(std::int64_t)>& wanted) {
  if (!a.has(tensor) && !b.has(tensor)) return;
  for (std::int64_t row = 0; row < a[tensor].extent(0); ++row)
    if (wanted(row)) expect_same_row(a, row, b, row, tensor, text);
}

void expect_zero_slice(const Answer& a, std::string_view tensor, std::int64_t slice, std::string_view text) {
  const Tensor& values = a[tensor];
  const std::int64_t width = values.size() / values.extent(0);
  for (std::int64_t i = slice * width; i < (slice + 1) * width; ++i)
    expect_equal(tensor, i, values[i], 0.0, text);
}

void expect_all_same(const Answer& a, const Answer& b, std::string_view text, bool exact) {
  for (const auto& [name, tensor] : a.results()) {
    if (name.starts_with("stages/")) continue;
    if (exact || !is_floating(tensor.dtype()))
      expect_identical(a, b, name, text);
    else
      expect_same(a, b, name, text);
  }
}

void Combination::expect(const Answer& answer, std::string_view tensor, std::string_view text,
                         bool exact) const {
  const Tensor& values = answer[tensor];
  for (std::int64_t i = 0; i < values.size(); ++i) {
    double sum = 0.0, magnitude = 0.0;
    for (const Term& term : terms_) {
      const double part = term.factor * term.answer->at(tensor, i);
      sum += part;
      magnitude += std::abs(part);
    }
    if (values[i] == sum) continue;
    double bound = 0.0;
    if (!exact) {
      bound = answer.bound(tensor, i);
      for (const Term& term : terms_) bound += std::abs(term.factor) * term.answer->bound(tensor, i);
      // This sum's own rounding; an infinity among its terms excuses nothing.
      if (std::isfinite(magnitude)) bound += 0x1p-50 * magnitude;
    }
    expect_near(tensor, i, values[i], sum, bound, text);
  }
}

void arrange_given_routing(Descriptor& d) {
  d.batch = 1;
  d.noise = 0.0;
  // The balanced gate has no replay.
  d.replay = d.component == Component::moe && !d.fake_gate;
}

void arrange_replayed_routing(Descriptor& d) {
  d.fake_gate = false;
  arrange_given_routing(d);
}

void arrange_decided_routing(Descriptor& d) {
  d.batch = 1;
  d.noise = 0.0;
  d.replay = (d.component == Component::moe || d.component == Component::gate) && !d.fake_gate &&
             (d.logits == Logits::ties || d.logits == Logits::equal || d.logits == Logits::large);
}

void arrange_exact(Descriptor& d) {
  d.fake_gate = d.component == Component::moe;  // weights 1 / k
  arrange_given_routing(d);
  d.widen();
  d.values = Values::exact;
  d.activation = ActivationKind::relu2;
  d.D = std::min<std::int64_t>(d.D, 8);
  d.I = std::min<std::int64_t>(d.I, 8);
  d.k = std::min<std::int64_t>(d.k, 8);
  if (d.component != Component::moe) return;
  d.k = d.k >= 4 ? 4 : d.k >= 2 ? 2 : 1;
  d.latent = 0;
  d.shared_gate = false;
  d.shared_relu2 = true;
}

void arrange_wide(Descriptor& d) { d.widen(); }

void arrange_one_plain_expert(Descriptor& d) {
  d.latent = 0;
  d.k = 1;
  d.rows = 0;
  d.poison = NonFinite::none;
  d.values = Values::rough;
  d.mask = Mask::absent;
  d.ids = Ids::distinct;
  d.activation = ActivationKind::relu;
  d.expert_bias = d.config.router_weight_on_input = false;
  d.config.null_slots = NullSlots::given;
  d.config.n_identity_experts = 0;
  if (d.dtype == DType::float16) d.dtype = DType::bfloat16;
}

}  // namespace moeref
