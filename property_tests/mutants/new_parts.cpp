#include "property_tests/mutants/new_parts.hpp"

#include <algorithm>

namespace moeref {

DType dtype_of(const Call& call) {
  return call.component == Component::mlp ? parse_mlp_config(call.config).dtype
                                          : parse_moe_config(call.config).dtype;
}

std::int64_t expert_ranks_of(const Call& call) {
  return has_experts(call) ? parse_call_options(call.options).parallel.ep_size : 1;
}

std::int64_t context_ranks_of(const Call& call) {
  return is_one_of(call, {Component::gate, Component::moe})
             ? parse_call_options(call.options).parallel.cp_size
             : 1;
}

Call with_live(Call call, const std::function<bool(std::int64_t)>& live) {
  const bool padding = call.component == Component::moe;
  const Tensor& x = require(call.tensors, facts(call.component).token_input);
  Shape shape = x.shape();
  shape.pop_back();
  Tensor mask(DType::boolean, shape);
  for (std::int64_t t = 0; t < mask.size(); ++t) mask.set(t, live(t) != padding ? 1.0 : 0.0);
  call.tensors[padding ? "inputs/padding_mask" : "inputs/token_mask"] = std::move(mask);
  return call;
}

NamedTensors without_convention(Implementation& sound, const Call& call, const char* field) {
  if (!is_one_of(call, {Component::gate, Component::moe}) || !call.config.contains(field))
    return sound.run(call);
  Call other = call;
  other.config.erase(field);
  return sound.run(other);
}

void change_rows(NamedTensors& results, std::string_view name,
                 const std::function<double(std::int64_t, std::int64_t, double)>& f) {
  const auto found = results.find(name);
  if (found == results.end() || found->second.size() == 0) return;
  const std::int64_t columns = found->second.shape().back();
  change(results, name, [&](std::int64_t i, double v) { return f(i / columns, i % columns, v); });
}

void map_input(Call& call, std::string_view name, const std::function<double(std::int64_t, double)>& f) {
  const auto found = call.tensors.find(name);
  if (found == call.tensors.end()) return;
  for (std::int64_t i = 0; i < found->second.size(); ++i) found->second.set(i, f(i, found->second[i]));
}

Call with_slots_lost(Call call, const std::function<bool(std::int64_t)>& lost) {
  Tensor& ids = call.tensors.at("inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && lost(i)) ids.set(i, -1.0);
  return call;
}

NamedTensors with_choice(Implementation& sound, const Call& call,
                         const std::function<IdList(std::int64_t, const IdList&)>& choose) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || call.tensors.contains("inputs/replay_indices")) return out;
  Tensor ids = out.at("outputs/indices");
  const std::int64_t k = ids.extent(1);
  bool changed = false;
  for (std::int64_t t = 0; t < ids.extent(0); ++t) {
    IdList own;
    for (std::int64_t j = 0; j < k; ++j) own.push_back(static_cast<std::int64_t>(ids[t * k + j]));
    const IdList chosen = choose(t, own);
    if (chosen.empty() || std::ranges::is_permutation(chosen, own)) continue;
    changed = true;
    for (std::int64_t j = 0; j < k; ++j)
      ids.set(t * k + j, static_cast<double>(chosen[static_cast<std::size_t>(j)]));
  }
  if (!changed) return out;
  Call given = call;
  given.tensors["inputs/replay_indices"] = ids;
  return sound.run(given);
}

NamedTensors with_weights_of(Implementation& sound, const Call& call, const Matrix& weighed) {
  NamedTensors out = sound.run(call);
  const Matrix plain = weighed_scores_of(call);
  const Tensor& ids = out.at("outputs/indices");
  Tensor& w = out.at("outputs/weights");
  const std::int64_t k = ids.extent(1);
  for (std::int64_t t = 0; t < ids.extent(0); ++t) {
    IdList own;
    for (std::int64_t j = 0; j < k; ++j) own.push_back(static_cast<std::int64_t>(ids[t * k + j]));
    const std::vector<double> other = weights_of(call, weighed, t, own),
                              right = weights_of(call, plain, t, own);
    for (std::int64_t j = 0; j < k; ++j) {
      const auto at = static_cast<std::size_t>(j);
      if (other[at] != right[at]) w.set(t * k + j, w[t * k + j] + (other[at] - right[at]));
    }
  }
  return out;
}

Matrix normalised_scores(const Call& call, Matrix s) {
  const MoEConfig c = parse_moe_config(call.config);
  if (!c.normalises_scores()) return s;
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < s.cols; ++e) sum += s.at(t, e);
    for (std::int64_t e = 0; e < s.cols; ++e) s.at(t, e) /= divisor_of(c, sum);
  }
  return s;
}

double loss_of_scores(Implementation& sound, const Call& call, const NamedTensors& results,
                      const Matrix& scores) {
  Call loss{Component::aux_loss, call.config, nlohmann::json::object(), {}, false};
  loss.tensors["inputs/original_scores"] =
      Tensor::of({scores.rows, scores.cols}, std::span<const double>(scores.values));
  loss.tensors["inputs/indices"] = results.at("outputs/indices");
  if (const Tensor* mask = find(call.tensors, "inputs/token_mask")) loss.tensors["inputs/token_mask"] = *mask;
  return sound.run(loss).at("outputs/aux_loss")[0];
}

NamedTensors with_loss_of(Implementation& sound, const Call& call, const Matrix& scores) {
  NamedTensors out = sound.run(call);
  const auto found = out.find("outputs/aux_loss");
  if (found != out.end()) found->second.set(0, loss_of_scores(sound, call, out, scores));
  return out;
}

Call shared_alone(Call call) {
  for (const char* name : {"params/experts.down_projs", "params/experts.down_proj_bias",
                           "params/fc2_latent_proj.weight", "params/fc2_latent_proj.bias"})
    fill(call, name, 0.0);
  return call;
}

void add_difference(NamedTensors& left, const NamedTensors& right, const NamedTensors& minus,
                    std::initializer_list<std::string_view> prefixes) {
  for (auto& [name, tensor] : left) {
    const Tensor *plus = find(right, name), *less = find(minus, name);
    if (!plus || !less || plus->shape() != tensor.shape() || less->shape() != tensor.shape() ||
        std::ranges::none_of(prefixes, [&name = name](std::string_view p) { return name.starts_with(p); }))
      continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      if ((*plus)[i] != (*less)[i] && !(std::isnan((*plus)[i]) && std::isnan((*less)[i])))
        tensor.set(i, tensor[i] + ((*plus)[i] - (*less)[i]));
  }
}

NamedTensors with_bias_step(Implementation& sound, const Call& call, const BiasStep& step) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  const CallOptions options = parse_call_options(call.options);
  const double factor = parse_moe_config(call.config).gate_bias_update_factor;
  std::vector<double> bias = call.tensors.at("params/e_score_correction_bias").doubles();
  NamedTensors out;
  for (std::int64_t s = 0; s < options.steps; ++s) {
    const std::string own = "_" + std::to_string(s);
    Call round = call;
    round.options["steps"] = 1;
    std::erase_if(round.tensors, [](const auto& entry) { return entry.first.starts_with("inputs/"); });
    for (const auto& [name, tensor] : call.tensors) {
      const std::size_t micro = name.rfind('_'),
                        at = micro == std::string::npos ? 0 : name.rfind('_', micro - 1);
      if (name.starts_with("inputs/") && name.substr(at, micro - at) == own)
        round.tensors[name.substr(0, at) + "_0" + name.substr(micro)] = tensor;
    }
    Tensor& master = round.tensors.at("params/e_score_correction_bias");
    for (std::int64_t e = 0; e < master.size(); ++e) master.set(e, bias[static_cast<std::size_t>(e)]);
    NamedTensors results = sound.run(round);
    const Tensor load = results.at("outputs/cumulative_expert_load_0");
    Tensor next = results.at("outputs/e_score_correction_bias_0");
    bias = step(bias, load.doubles(), factor);
    for (std::int64_t e = 0; e < next.size(); ++e) {
      bias[static_cast<std::size_t>(e)] = round_to(DType::float32, bias[static_cast<std::size_t>(e)]);
      next.set(e, bias[static_cast<std::size_t>(e)]);
    }
    for (std::int64_t m = 0; m < options.micro_batches; ++m) {
      const std::string micro = "_" + std::to_string(m);
      out["outputs/indices" + own + micro] = results.at("outputs/indices_0" + micro);
    }
    out["outputs/cumulative_expert_load" + own] = load;
    out["outputs/e_score_correction_bias" + own] = next;
  }
  return out;
}

double scatter(std::int64_t i) {
  std::uint64_t h = static_cast<std::uint64_t>(i) + 0x9e3779b97f4a7c15U;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9U;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebU;
  return static_cast<double>((h ^ (h >> 31)) >> 11) * 0x1p-52 - 1.0;
}

std::string sizes_of(const Call& call) {
  std::string out = std::string(name(call.component)) + call.config.dump() + call.options.dump() +
                    (call.backward ? "b" : "f");
  for (const auto& [name, tensor] : call.tensors) out += name + to_string(tensor.shape());
  return out;
}

}  // namespace moeref
