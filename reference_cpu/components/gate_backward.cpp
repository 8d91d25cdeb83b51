#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/gate.hpp"
#include "reference_cpu/components/normalisation.hpp"
#include "reference_cpu/components/parallelism.hpp"
#include "reference_cpu/components/router_input.hpp"
#include "reference_cpu/components/routing_weights.hpp"
#include "reference_cpu/components/score.hpp"
#include "reference_cpu/components/z_loss.hpp"

namespace moeref {
namespace {

/// What reaches the weight of an expert's slot, back through the casts to the type in which the values `held`
/// are multiplied by the expert's scale.
Real reaching_weight(const GateParams& p, Real dw, std::int64_t expert, Precision scores, Precision held) {
  return store(store(dw, scores), p.scale ? finer(held, expert_scale(p, expert).held) : held);
}

/// The gradient of per_expert_scale: the sum of dw times the weights without it over all slots of an expert,
/// in any order, in the parameter's own type.
Bounded scale_gradient(const MoEConfig& c, const CallOptions& o, const GateParams& p, const GateForward& f,
                       const Bounded& dw) {
  std::vector<Sum> sums(static_cast<std::size_t>(c.n_routed_experts), Sum(precision(p.stored)));
  for (std::int64_t t = 0; t < dw.rows; ++t) {
    const TokenScores token = token_scores(c, o, p.correction, f.logits, t);
    const FilledSlots slots = filled_slots(c, f.indices, f.dispatched, t);
    const std::vector<Real> weights = routing_weights(c, selected_values(c, o, token, slots), slots);
    for (std::size_t j = 0; j < weights.size(); ++j)
      if (slots.kept[j])
        sums[static_cast<std::size_t>(slots.id[j])] +=
            store(reaching_weight(p, dw.at(t, slots.place[j]), slots.id[j], precision(f.scores.dtype),
                                  token.weighed[0].held) *
                      weights[j],
                  precision(p.stored));
  }
  Bounded out(1, c.n_routed_experts, p.stored);
  for (std::int64_t e = 0; e < out.cols; ++e) out.set(e, sums[static_cast<std::size_t>(e)].total());
  return out;
}

}  // namespace

GateBackward gate_backward(const MoEConfig& c, const CallOptions& o, const GateParams& p, const Bounded& x,
                           const std::vector<bool>& mask, const GateForward& f, const Bounded& dw) {
  const std::int64_t tokens = x.rows;
  const auto experts = static_cast<std::size_t>(c.n_routed_experts);
  const ScoreRule& rule = score_rule(c.score_func);
  const Precision scores_held = precision(f.scores.dtype);
  const Real loss_scale = store(known(o.aux_loss_backward_scale, {}), precision(DType::float32));
  const ScoreGradients by_scores(c, f.losses, loss_scale);
  const Real z_scale = loss_scale * c.z_loss_coeff;
  const Precision z_held = precision(c.maps_logits() ? score_compute_type(o) : f.logits.dtype);
  Bounded dz(tokens, c.n_routed_experts, f.logits.dtype);

  parallel_for(tokens, [&](std::int64_t t) {
    const TokenScores token = token_scores(c, o, p.correction, f.logits, t);
    const FilledSlots slots = filled_slots(c, f.indices, f.dispatched, t);
    const std::vector<Real> values = selected_values(c, o, token, slots);

    // Back through the casts, scale and normalisation to the selected values.
    const Precision held = token.weighed[0].held;
    std::vector<Real> d_weights;
    for (std::size_t j = 0; j < values.size(); ++j) {
      const Real above = reaching_weight(p, dw.at(t, slots.place[j]), slots.id[j], scores_held, held);
      d_weights.push_back(store(p.scale ? above * expert_scale(p, slots.id[j]) : above, held));
    }
    std::vector<Real> d_values = routing_weights_gradient(c, values, slots, d_weights);

    // The gradients of S and of z are sums in any order: of the auxiliary losses', directly and through the
    // sum of S, and of the selected values', which arrive at S or at z.
    std::vector<Sum> at_scores(experts, Sum(held)), at_logits(experts, Sum(z_held));
    if (!by_scores.empty() && mask[static_cast<std::size_t>(t)]) {
      std::vector<Real> d_scores;
      for (const Real d : by_scores.of_token(t, tokens, scores_held)) d_scores.push_back(store(d, held));
      if (c.normalises_scores()) {
        const NormaliseGradient back = normalise_gradient(c, token.weighed, d_scores);
        for (Sum& sum : at_scores) sum += back.through_sum;
        d_scores = back.direct;
      }
      for (std::size_t i = 0; i < experts; ++i) at_scores[i] += d_scores[i];
    }
    if (scores_after_topk(c)) d_values = rule.gradient(gather(token.logits, slots.id), values, d_values);
    for (std::size_t j = 0; j < values.size(); ++j) {
      const auto id = static_cast<std::size_t>(slots.id[j]);
      if (scores_after_topk(c))
        at_logits[id] += store(d_values[j], z_held);
      else
        at_scores[id] += d_values[j];
    }
    // A masked token's part of the loss is 0 times what may be divided by 0: 0, or NaN in a port that
    // multiplies.
    if (!by_scores.empty() && !mask[static_cast<std::size_t>(t)] && c.normalises_scores() &&
        may_divide_by_zero(c, token.weighed)) {
      for (std::size_t i = 0; i < experts; ++i)
        dz.set(t, static_cast<std::int64_t>(i), {0.0, INFINITY, precision(f.logits.dtype)});
      return;
    }
    // Where losses come one by one, each directly and through the sum of S, there are more terms in between.
    const std::int64_t others = by_scores.further() * (c.normalises_scores() ? 2 : 1);
    std::vector<Real> d_scores;
    for (std::size_t i = 0; i < experts; ++i)
      d_scores.push_back(store(at_scores[i].total(others), token.scores[i].held));
    const std::vector<Real> through_scores = rule.gradient(token.logits, token.scores, d_scores);
    // The z-loss reaches the logits themselves.
    std::vector<Real> through_z;
    if (f.z_loss && mask[static_cast<std::size_t>(t)])
      through_z = z_loss_gradient(o, f.logits, t, real_token_count(mask), z_scale);
    for (std::size_t i = 0; i < experts; ++i) {
      at_logits[i] += store(through_scores[i], z_held);
      const auto e = static_cast<std::int64_t>(i);
      const Precision held_z = precision(f.logits.dtype);
      if (!through_z.empty() && !c.maps_logits()) at_logits[i] += store(through_z[i], z_held);
      Real d = at_logits[i].total();
      if (c.maps_logits()) {
        d = d * mapped_logit_slope(c, o, f.logits.at(t, e));
        if (!through_z.empty()) d = store(d, held_z) + store(through_z[i], held_z);
      }
      dz.set(t, e, d);
    }
  });

  // Products are stored in the compute type before they are cast to the parameters' type.
  const DType compute = f.logits.dtype;
  const Sums sums = sums_of(compute, o.float32_products);
  GateBackward out;
  out.x = multiply(dz, false, p.weight, false, sums, compute);
  const auto ranks = rank_offsets(o.parallel.size(), o.parallel.tokens_per_rank, x.rows);
  Bounded noisy;
  const Bounded& seen = seen_tokens(x, p.noise, noisy);
  if (c.router_input_norm) {
    RMSNormBackward back = router_input_backward(c, seen, p.input_scale, out.x);
    out.x = std::move(back.x);
    out.input_scale = bias_gradient(back.weight_rows, back.weight_rows.dtype, p.stored, ranks);
  }
  out.x = cast(std::move(out.x), x.dtype);
  if (p.noise) out.x = jittered(out.x, *p.noise);
  out.weight =
      weight_gradient(dz, router_input(c, seen, p.input_scale, compute), sums, compute, p.stored, ranks);
  if (p.bias) out.bias = bias_gradient(dz, compute, p.stored, ranks);
  if (p.scale) out.scale = scale_gradient(c, o, p, f, dw);
  return out;
}

}  // namespace moeref
