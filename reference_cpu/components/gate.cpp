#include "reference_cpu/components/gate.hpp"

#include <algorithm>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/capacity.hpp"
#include "reference_cpu/components/normalisation.hpp"
#include "reference_cpu/components/router_input.hpp"
#include "reference_cpu/components/routing_weights.hpp"
#include "reference_cpu/components/selection.hpp"
#include "reference_cpu/components/z_loss.hpp"

namespace moeref {

GateParams load_gate(const MoEConfig& c, const CallOptions& o, const NamedTensors& tensors,
                     const std::string& prefix, DType x) {
  const DType compute = gate_compute_type(o, x);
  GateParams p;
  p.stored = require(tensors, prefix + "weight").dtype();
  p.weight = load(require(tensors, prefix + "weight"), 0, c.n_routed_experts, c.dim, compute);
  if (c.router_bias) p.bias = load(require(tensors, prefix + "bias"), 0, 1, c.n_routed_experts, compute);
  p.correction = load_correction(c, tensors, prefix);
  if (const Tensor* load = find(tensors, "inputs/accumulated_expert_load")) {
    const auto counts = load->as<std::int64_t>();
    p.accumulated_load.assign(counts.begin(), counts.end());
  }
  if (c.router_input_norm) p.input_scale = load(require(tensors, prefix + "input_scale"), c.dim);
  if (const Tensor* noise = find(tensors, "inputs/router_noise"); noise && c.router_jitter)
    p.noise = load(*noise, c.dim);
  if (c.per_expert_scale) {
    p.scale.emplace();
    const Bounded scale = load(require(tensors, prefix + "per_expert_scale"), c.n_routed_experts);
    for (std::int64_t i = 0; i < scale.cols; ++i) p.scale->push_back(scale.at(i));
  }
  return p;
}

std::optional<std::vector<Real>> load_correction(const MoEConfig& c, const NamedTensors& tensors,
                                                 const std::string& prefix) {
  if (!c.has_correction_bias()) return std::nullopt;
  const Tensor& correction = require(tensors, prefix + "e_score_correction_bias");
  std::vector<Real> out;
  for (std::int64_t i = 0; i < correction.size(); ++i)
    out.push_back(store(known(correction[i], precision(correction.dtype())), precision(DType::float32)));
  return out;
}

Real expert_scale(const GateParams& p, std::int64_t expert) {
  return (*p.scale)[static_cast<std::size_t>(expert)];
}

namespace {

/// The weights of a token's slots, with their scales per expert, among those of all.
void put_weights(const GateParams& p, const FilledSlots& slots, const std::vector<Real>& weights,
                 std::int64_t t, GateForward& f) {
  for (std::size_t j = 0; j < weights.size(); ++j) {
    const Real weight = p.scale ? weights[j] * expert_scale(p, slots.id[j]) : weights[j];
    f.weights.set(t, slots.place[j], store(weight, precision(f.scores.dtype)));
  }
}

}  // namespace

GateForward gate_forward(const MoEConfig& c, const CallOptions& o, const GateParams& p, const Bounded& x,
                         const std::vector<bool>& mask, const GivenIds& given, const ForcedStages& forced) {
  const std::int64_t tokens = x.rows, k = c.n_activated_experts;
  Bounded noisy;
  const Bounded input =
      router_input(c, seen_tokens(x, p.noise, noisy), p.input_scale, gate_compute_type(o, x.dtype));
  GateForward f;
  f.logits = linear(input, p.weight, p.bias ? &*p.bias : nullptr, sums_of(input.dtype, o.float32_products),
                    input.dtype);
  forced.settle("stages/logits", f.logits, {tokens, c.n_routed_experts});
  f.scores = Bounded(tokens, c.n_routed_experts, scores_type(c, o, x.dtype));
  f.weights = Bounded(tokens, k, c.router_weights_fp32 ? DType::float32 : x.dtype);
  f.indices.resize(static_cast<std::size_t>(tokens * k));
  f.routing = routing_frame(c, tokens);

  const std::optional<Bounded> balanced = balanced_choice(c, o, f.logits);
  parallel_for(tokens, [&](std::int64_t t) {
    TokenScores token = token_scores(c, o, p.correction, f.logits, t);
    take_choice(balanced, t, token);
    record_scores(f.routing, c, t, token);
    const std::span<std::int64_t> ids(f.indices.data() + t * k, static_cast<std::size_t>(k));
    const std::vector<std::int64_t> own =
        given.indices
            ? std::vector<std::int64_t>(given.indices->begin() + t * k, given.indices->begin() + (t + 1) * k)
            : select_experts(token.choice, c);
    std::copy(own.begin(), own.end(), ids.begin());

    const FilledSlots slots = filled_slots(c, f.indices, f.indices, t);
    put_weights(p, slots, weights_before_dropping(c, selected_values(c, o, token, slots)), t, f);
    const std::vector<Real> seen = c.normalises_scores() ? normalise(c, token.weighed) : token.weighed;
    for (std::int64_t i = 0; i < c.n_routed_experts; ++i)
      f.scores.set(t, i, seen[static_cast<std::size_t>(i)]);
  });

  f.dispatched = f.indices;
  if (c.drops_slots()) {
    f.dispatched = dispatched_ids(c, o.parallel, f.indices, f.weights, mask, given.dispatched);
    parallel_for(tokens, [&](std::int64_t t) {
      const TokenScores token = token_scores(c, o, p.correction, f.logits, t);
      const FilledSlots slots = filled_slots(c, f.indices, f.dispatched, t);
      put_weights(p, slots, routing_weights(c, selected_values(c, o, token, slots), slots), t, f);
    });
  }

  forced.settle("stages/scores", f.scores, {tokens, c.n_routed_experts});
  f.load = expert_load(f.indices, mask, c.n_routed_experts);
  if (o.training) f.losses = gate_losses(c, o.parallel, f.scores, f.indices, mask, p.accumulated_load);
  if (o.training && c.z_loss_coeff > 0.0) f.z_loss = z_loss(o, f.logits, mask);
  return f;
}

}  // namespace moeref
