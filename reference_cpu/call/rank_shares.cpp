#include "reference_cpu/call/rank_shares.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <utility>

#include "moeref/config.hpp"
#include "reference_cpu/call/enumerators.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

/// A name; or, ending in '*', what names begin with; or empty, which matches none.
using Names = std::array<std::string_view, 7>;

bool is_one_of(const Names& names, std::string_view tensor) {
  return std::ranges::any_of(names, [&](std::string_view name) {
    if (name.empty()) return false;
    return name.ends_with('*') ? tensor.starts_with(name.substr(0, name.size() - 1)) : tensor == name;
  });
}

/// The first list that has a tensor's name decides; a tensor in none of them is whole.
struct ShareRule {
  Component kind;
  Names whole = {};
  Names batch = {}, tokens = {};
  Names experts = {};  ///< under expert parallelism
};

constexpr std::string_view kAccumulated = "inputs/accumulated_expert_load";

constexpr auto kShareRules = std::to_array<ShareRule>({
    {.kind = Component::gate,
     .whole = {kAccumulated},
     .tokens = {"inputs/*", "cotangents/*", "stages/*", "outputs/weights", "outputs/indices",
                "outputs/dispatched_indices", "grads/x"}},
    {.kind = Component::aux_loss, .whole = {kAccumulated}, .tokens = {"inputs/*", "grads/original_scores"}},
    {.kind = Component::bias_update, .tokens = {"inputs/*", "outputs/indices_*"}},
    {.kind = Component::fake_balanced_gate, .tokens = {"inputs/*", "outputs/*"}},
    {.kind = Component::mlp, .batch = {"inputs/x", "cotangents/y", "outputs/y", "grads/x"}},
    {.kind = Component::experts,
     .tokens = {"inputs/*", "cotangents/*", "stages/*", "outputs/y", "grads/x", "grads/weights"},
     .experts = {"params/*", "grads/*"}},
    {.kind = Component::moe,
     .whole = {kAccumulated},
     .batch = {"inputs/x", "inputs/router_noise", "inputs/padding_mask", "cotangents/y", "outputs/y",
               "grads/x"},
     .tokens = {"inputs/*", "stages/*", "outputs/weights", "outputs/indices", "outputs/dispatched_indices"},
     .experts = {"params/experts.*", "grads/experts.*"}},
    {.kind = Component::init, .experts = {"outputs/experts.*"}},
    {.kind = Component::metrics},
});
static_assert(has_row_per_enumerator<kShareRules>());

const ShareRule& rule_of(Component component) { return kShareRules[static_cast<std::size_t>(component)]; }

/// The input whose axes but the last are the tokens; null where ranks do not divide tokens.
const Tensor* tokens_of(const Call& call) {
  const ShareRule& rule = rule_of(call.component);
  const bool divided = !rule.batch[0].empty() || !rule.tokens[0].empty();
  return divided ? find(call.tensors, facts(call.component).token_input) : nullptr;
}

std::int64_t row_size(const Shape& shape, std::size_t row_axes) {
  return std::accumulate(shape.begin() + static_cast<std::ptrdiff_t>(row_axes), shape.end(), std::int64_t{1},
                         std::multiplies<>());
}

}  // namespace

Division division(const Call& call, std::string_view tensor) {
  const ShareRule& rule = rule_of(call.component);
  if (is_one_of(rule.whole, tensor)) return Division::whole;
  if (is_one_of(rule.batch, tensor)) return Division::batch;
  if (is_one_of(rule.tokens, tensor)) return Division::tokens;
  const bool experts = is_one_of(rule.experts, tensor);
  return experts && parse_call_options(call.options).parallel.ep_size > 1 ? Division::experts
                                                                          : Division::whole;
}

RankShares::RankShares(const Call& call, std::int64_t ranks, std::vector<TensorSpec> outputs)
    : whole_(call), whole_outputs_(std::move(outputs)) {
  if (ranks == 1) {
    outputs_ = {whole_outputs_};
    return;
  }
  const CallOptions options = parse_call_options(call.options);
  if (const Tensor* x = tokens_of(call)) {
    token_axes_ = x->shape().size() - 1;
    const std::int64_t tokens = x->size() == 0 ? 0 : x->size() / x->shape().back();
    offsets_ = rank_offsets(ranks, options.parallel.tokens_per_rank, tokens);
  }
  if (options.parallel.ep_size > 1 && !rule_of(call.component).experts[0].empty())
    for (std::int64_t r = 0; r < ranks; ++r)
      experts_.push_back(rank_experts(parse_moe_config(call.config), r, ranks));
  outputs_.resize(static_cast<std::size_t>(ranks));
  for (std::size_t r = 0; r < outputs_.size(); ++r) {
    Call& own = shares_.emplace_back(Call{call.component, call.config, call.options, {}, call.backward});
    for (const auto& [name, tensor] : call.tensors) own.tensors[name] = share(name, tensor, r);
    for (TensorSpec spec : whole_outputs_) {
      if (const auto part = slice(spec.name, r)) spec.shape = share_shape(spec.name, spec.shape, *part);
      outputs_[r].push_back(std::move(spec));
    }
  }
}

std::optional<RankShares::Slice> RankShares::slice(std::string_view tensor, std::size_t rank) const {
  switch (division(whole_, tensor)) {
    case Division::tokens:
    case Division::batch:
      return Slice{offsets_[rank], offsets_[rank + 1] - offsets_[rank]};
    case Division::experts:
      return Slice{experts_[rank].first, experts_[rank].count};
    case Division::whole:
      break;
  }
  return std::nullopt;
}

Shape RankShares::share_shape(std::string_view tensor, const Shape& shape, Slice slice) const {
  Shape out = shape;
  const std::size_t axes = division(whole_, tensor) == Division::batch ? token_axes_ : 1;
  std::fill_n(out.begin(), axes, 1);
  out[axes - 1] = slice.count;
  return out;
}

Tensor RankShares::share(const std::string& name, const Tensor& tensor, std::size_t rank) const {
  const auto part = slice(name, rank);
  if (!part) return tensor;
  const Shape shape = share_shape(name, tensor.shape(), *part);
  const std::size_t axes = division(whole_, name) == Division::batch ? token_axes_ : 1;
  const std::int64_t row = row_size(shape, axes) * size_of(tensor.dtype());
  Tensor out(tensor.dtype(), shape);
  std::ranges::copy(tensor.bytes().subspan(static_cast<std::size_t>(part->first * row),
                                           static_cast<std::size_t>(part->count * row)),
                    out.bytes().begin());
  return out;
}

NamedTensors RankShares::join(std::vector<NamedTensors> results) const {
  if (results.size() == 1) return std::move(results.front());
  NamedTensors out;
  for (const auto& [name, first] : results.front()) {
    const Division how = division(whole_, name);
    if (how == Division::whole) {
      out[name] = first;
      continue;
    }
    const auto spec = std::ranges::find(whole_outputs_, name, &TensorSpec::name);
    Shape shape = first.shape();
    if (spec != whole_outputs_.end()) {
      shape = spec->shape;
    } else {  // a stage
      shape[0] = 0;
      for (const NamedTensors& part : results) shape[0] += part.at(name).extent(0);
    }
    Tensor all(first.dtype(), shape);
    auto to = all.bytes().begin();
    for (const NamedTensors& part : results) to = std::ranges::copy(part.at(name).bytes(), to).out;
    out[name] = std::move(all);
  }
  return out;
}

}  // namespace moeref
