#include "reference_cpu/components/gate.hpp"

#include <algorithm>
#include <cmath>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/parallelism.hpp"
#include "reference_cpu/components/selection.hpp"

namespace moeref {
namespace {

using Row = std::vector<Real>;
using Ids = std::span<const std::int64_t>;

bool scores_after_topk(const MoEConfig& c) {
  return facts(c.score_func).selects_by_logits && !c.softmax_before_topk;
}
bool weighs_corrected(const MoEConfig& c) {
  return facts(c.score_func).weighs_corrected && c.router_weight_uses_score_correction_bias &&
         c.has_correction_bias();
}

/// The type that score functions run in, which may differ from that of the logits.
DType score_compute_type(const CallOptions& o) { return o.gate_precision.value_or(DType::float32); }

/// cap tanh(scale z / cap) in the type of the score function, or scale z without a cap (SPEC 10).
Real mapped_logit(const MoEConfig& c, const CallOptions& o, Real z) {
  const Real scaled = store(z, precision(score_compute_type(o))) * c.logit_scale;
  return c.logit_cap > 0.0 ? tanh(scaled / c.logit_cap) * c.logit_cap : scaled;
}

/// Its slope by z: scale (1 - tanh^2), or scale.
Real mapped_logit_slope(const MoEConfig& c, const CallOptions& o, Real z) {
  const Precision held = precision(score_compute_type(o));
  if (c.logit_cap == 0.0) return constant(c.logit_scale, held);
  const Real t = tanh(store(z, held) * c.logit_scale / c.logit_cap);
  return (1.0 - t * t) * c.logit_scale;
}

/// The z-loss is computed in float32 at least.
Precision z_loss_precision(const CallOptions& o) { return finer(precision(score_compute_type(o)), kFloat); }

Row logits_of_token(const Bounded& logits, std::int64_t t, Precision held) {
  Row out;
  for (std::int64_t i = 0; i < logits.cols; ++i) out.push_back(widen(logits.at(t, i), held));
  return out;
}

double real_tokens(const std::vector<bool>& mask) {
  return std::max(static_cast<double>(std::ranges::count(mask, true)), 1.0);
}

/// The mean over real tokens of logsumexp(z)^2.
Real z_loss(const CallOptions& o, const Bounded& logits, const std::vector<bool>& mask) {
  Sum sum(kFloat);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    if (!mask[static_cast<std::size_t>(t)]) continue;
    const Real lse = log_sum_exp(logits_of_token(logits, t, z_loss_precision(o)), z_loss_precision(o));
    sum += store(lse * lse, kFloat);
  }
  return sum.total() / real_tokens(mask);
}

/// d z_loss / d z_t = 2 logsumexp(z_t) softmax(z_t) / n, times `scale`.
Row z_loss_gradient(const CallOptions& o, const Bounded& logits, std::int64_t t, double n, Real scale) {
  const Precision held = z_loss_precision(o);
  const Row z = logits_of_token(logits, t, held);
  const Real by_lse = log_sum_exp(z, held) * 2.0 * scale / n;
  Row out;
  for (const Real s : softmax(z, held)) out.push_back(s * by_lse);
  return out;
}

/// One token on its way from logits to selection.
struct Token {
  Row logits;   ///< z as it is scored: mapped where the config says so
  Row scores;   ///< what the score function gives
  Row choice;   ///< q, which the selection orders
  Row weighed;  ///< S before normalisation: what the weights are gathered from and the auxiliary loss sees
};

Token score(const MoEConfig& c, const CallOptions& o, const GateParams& p, const Bounded& logits,
            std::int64_t t) {
  const ScoreRule& rule = score_rule(c.score_func);
  const Precision score_precision = precision(score_compute_type(o));
  Token token;
  for (std::int64_t i = 0; i < logits.cols; ++i)
    token.logits.push_back(c.maps_logits() ? mapped_logit(c, o, logits.at(t, i)) : logits.at(t, i));
  token.scores = rule.scores(token.logits, score_precision);
  token.weighed = token.scores;
  if (facts(c.score_func).selects_by_logits) {
    token.choice = c.softmax_before_topk ? unnormalised_softmax(token.logits, score_precision) : token.logits;
    return token;
  }
  token.choice = c.selects_logits() ? token.logits : token.scores;
  if (p.correction)
    for (std::size_t i = 0; i < token.choice.size(); ++i)
      token.choice[i] = token.choice[i] + (*p.correction)[i];
  if (weighs_corrected(c)) token.weighed = token.choice;
  return token;
}

Row gather(const Row& from, Ids ids) {
  Row out;
  for (const std::int64_t id : ids) out.push_back(from[static_cast<std::size_t>(id)]);
  return out;
}

/// The slots that have an expert; replayed ids may leave others without one.
std::vector<std::int64_t> filled_slots(const MoEConfig& c, Ids ids) {
  std::vector<std::int64_t> out;
  for (std::size_t j = 0; j < ids.size(); ++j)
    if (ids[j] != c.null_id()) out.push_back(static_cast<std::int64_t>(j));
  return out;
}

std::vector<std::int64_t> ids_of_slots(Ids ids, const std::vector<std::int64_t>& slots) {
  std::vector<std::int64_t> out;
  for (const std::int64_t j : slots) out.push_back(ids[static_cast<std::size_t>(j)]);
  return out;
}

/// The factor on the weight of a slot.
Real expert_scale(const GateParams& p, Ids ids, std::int64_t slot) {
  return (*p.scale)[static_cast<std::size_t>(ids[static_cast<std::size_t>(slot)])];
}

/// The values of the selected experts before normalisation.
Row select_values(const MoEConfig& c, const CallOptions& o, const Token& token, Ids ids) {
  if (scores_after_topk(c))
    return score_rule(c.score_func).scores(gather(token.logits, ids), precision(score_compute_type(o)));
  return gather(token.weighed, ids);
}

/// max(sum, m). A small m may vanish in the type of the sum.
Real at_least(Real sum, double m) {
  Real out = clamp(sum, m, INFINITY);
  if (m > 0.0) out.error += out.held.tiny;
  return out;
}

/// What a row is divided by, in the row's precision, and its slope by the sum over the row.
struct Denominator {
  Real value, slope;
};
Denominator denominator(const MoEConfig& c, const Row& row) {
  const Precision held = row[0].held;
  Sum all(finer(held, precision(DType::float32)));
  for (const Real a : row) all += a;
  const Real sum = store(all.total(), held);
  if (c.norm_denominator == NormDenominator::max_of_sum_and_eps)
    return {at_least(sum, c.norm_eps), inside(sum, c.norm_eps, INFINITY)};
  return {sum + c.norm_eps, known(1.0, held)};
}

/// a_i / sum, and its gradient d_i / sum - (sum_j d_j a_j / sum) / sum: the direct part, and the part through
/// the sum.
Row normalise(const MoEConfig& c, const Row& row) {
  if (row.empty()) return {};
  const Real sum = denominator(c, row).value;
  Row out;
  for (const Real a : row) out.push_back(a / sum);
  return out;
}
struct NormaliseGradient {
  Row direct;
  Real through_sum;
};
NormaliseGradient normalise_gradient(const MoEConfig& c, const Row& row, const Row& cotangent) {
  if (row.empty()) return {};
  const auto [total, slope] = denominator(c, row);
  Sum inner(finer(total.held, precision(DType::float32)));
  NormaliseGradient out;
  for (std::size_t i = 0; i < row.size(); ++i) {
    inner += -cotangent[i] * (row[i] / total / total);
    out.direct.push_back(cotangent[i] / total);
  }
  out.through_sum = store(inner.total(), total.held);
  // Where the sum is surely the smaller or the larger of the two, nothing more is rounded.
  if (slope.error > 0.0)
    out.through_sum.error += std::abs(out.through_sum.value);
  else if (slope.value == 0.0)
    out.through_sum = known(0.0, total.held);
  return out;
}

/// Statistics of the auxiliary loss of tokens [first, last).
AuxStatistics statistics_of(const GateForward& f, const std::vector<bool>& mask, std::int64_t k,
                            std::int64_t first, std::int64_t last) {
  const std::vector<bool> own_mask(mask.begin() + first, mask.begin() + last);
  const std::vector<std::int64_t> ids(f.indices.begin() + first * k, f.indices.begin() + last * k);
  return aux_statistics(rows_of(f.scores, first, last), own_mask, expert_load(ids, own_mask, f.scores.cols));
}

/// One loss per sequence. The statistics of one sequence are added rank by rank under context parallelism.
std::vector<AuxLoss> sequence_losses(const MoEConfig& c, const CallOptions& o, const GateForward& f,
                                     const std::vector<bool>& mask) {
  const std::int64_t k = c.n_activated_experts, ranks = o.parallel.cp_size, sequences = c.aux_loss_sequences;
  if (sequences > 1 && ranks > 1)
    throw InputError("config field 'aux_loss_sequences' is " + std::to_string(sequences) +
                     ": want 1 where context-parallel ranks share a sequence");
  std::vector<AuxLoss> out;
  if (sequences > 1) {
    const auto offsets = sequence_offsets(sequences, f.scores.rows);
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
      out.push_back(aux_loss(statistics_of(f, mask, k, offsets[s], offsets[s + 1]), c.aux_loss_slots()));
    return out;
  }
  const auto offsets = rank_offsets(ranks, o.parallel.tokens_per_rank, f.scores.rows);
  AuxStatistics sum = statistics_of(f, mask, k, offsets[0], offsets[1]);
  for (std::size_t r = 1; r + 1 < offsets.size(); ++r)
    add(sum, statistics_of(f, mask, k, offsets[r], offsets[r + 1]));
  out.push_back(aux_loss(sum, c.aux_loss_slots()));
  return out;
}

void record(RoutingScores& routing, const MoEConfig& c, std::int64_t t, const Token& token) {
  const Row groups = group_scores(token.choice, c);
  const auto put = [](std::vector<double>& value, std::vector<double>& bound, const Row& row,
                      std::int64_t at) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      value[static_cast<std::size_t>(at) + i] = row[i].value;
      bound[static_cast<std::size_t>(at) + i] = row[i].error;
    }
  };
  put(routing.score, routing.score_bound, token.choice, t * routing.experts);
  put(routing.group, routing.group_bound, groups, t * routing.groups);
}

RoutingScores routing_frame(const MoEConfig& c, std::int64_t tokens) {
  RoutingScores out;
  out.indices = "outputs/indices";
  out.tokens = tokens;
  out.experts = c.n_routed_experts;
  out.k = c.n_activated_experts;
  out.groups = c.grouped() ? c.n_expert_groups : 1;
  out.limited_groups = c.grouped() ? c.n_limited_groups : 1;
  out.discarded_groups_are_zero = c.discards_to_zero();
  out.score.resize(static_cast<std::size_t>(tokens * out.experts));
  out.score_bound.resize(out.score.size());
  if (c.grouped()) out.group.resize(static_cast<std::size_t>(tokens * out.groups));
  out.group_bound.resize(out.group.size());
  return out;
}

}  // namespace

DType gate_compute_type(const CallOptions& options, DType x) { return options.gate_precision.value_or(x); }

DType scores_type(const MoEConfig& c, const CallOptions& o, DType x) {
  if (o.gate_precision && !c.router_weights_fp32) return x;
  if (facts(c.score_func).always_float32) return DType::float32;
  return weighs_corrected(c) ? promote(score_compute_type(o), DType::float32) : score_compute_type(o);
}

GateParams load_gate(const MoEConfig& c, const CallOptions& o, const NamedTensors& tensors,
                     const std::string& prefix, DType x) {
  const DType compute = gate_compute_type(o, x);
  GateParams p;
  p.stored = require(tensors, prefix + "weight").dtype();
  p.weight = load(require(tensors, prefix + "weight"), 0, c.n_routed_experts, c.dim, compute);
  if (c.router_bias) p.bias = load(require(tensors, prefix + "bias"), 0, 1, c.n_routed_experts, compute);
  p.correction = load_correction(c, tensors, prefix);
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

RoutingScores routing_of_logits(const MoEConfig& c, const CallOptions& o,
                                const std::optional<std::vector<Real>>& correction, const Bounded& logits) {
  GateParams p;
  p.correction = correction;
  RoutingScores out = routing_frame(c, logits.rows);
  parallel_for(logits.rows, [&](std::int64_t t) { record(out, c, t, score(c, o, p, logits, t)); });
  return out;
}

std::optional<RoutingScores> routing_of_scores(const MoEConfig& c,
                                               const std::optional<std::vector<Real>>& correction,
                                               const Bounded& scores) {
  const bool by_logits = facts(c.score_func).selects_by_logits;
  const bool corrected = correction && !by_logits, adds = corrected && !weighs_corrected(c);
  // Before its normalisation the sum may be anything, a negative number too. Where it saturates a score does
  // not tell logits apart.
  if ((corrected && c.normalises_scores()) || (!by_logits && c.selects_logits())) return std::nullopt;
  RoutingScores out = routing_frame(c, scores.rows);
  parallel_for(scores.rows, [&](std::int64_t t) {
    Token token;
    double largest = 0.0;
    for (std::int64_t i = 0; i < scores.cols; ++i) largest = std::max(largest, scores.at(t, i).value);
    for (std::int64_t i = 0; i < scores.cols; ++i) {
      Real s = scores.at(t, i);
      const double unit = std::max(s.held.unit, precision(DType::float32).unit);
      // Scores that the selection is not made from directly: exp of a shift rounds it and itself
      // (softmax()), and a division by the sum rounds once more.
      if (by_logits && s.value > 0.0)
        s.error += s.value * unit * (std::log(largest / s.value) + 6.0);
      else if (by_logits || c.normalises_scores())
        s.error += 2.0 * unit * std::abs(s.value) + s.held.tiny;
      token.choice.push_back(adds ? s + (*correction)[static_cast<std::size_t>(i)] : s);
    }
    record(out, c, t, token);
  });
  return out;
}

GateForward gate_forward(const MoEConfig& c, const CallOptions& o, const GateParams& p, const Bounded& x,
                         const std::vector<bool>& mask, const std::vector<std::int64_t>* replay,
                         const ForcedStages& forced) {
  const std::int64_t tokens = x.rows, k = c.n_activated_experts;
  const Bounded input = cast(x, gate_compute_type(o, x.dtype));
  GateForward f;
  f.logits = linear(input, p.weight, p.bias ? &*p.bias : nullptr, sums_of(input.dtype, o.float32_products),
                    input.dtype);
  forced.settle("stages/logits", f.logits, {tokens, c.n_routed_experts});
  f.scores = Bounded(tokens, c.n_routed_experts, scores_type(c, o, x.dtype));
  f.weights = Bounded(tokens, k, c.router_weights_fp32 ? DType::float32 : x.dtype);
  f.indices.resize(static_cast<std::size_t>(tokens * k));
  f.routing = routing_frame(c, tokens);

  parallel_for(tokens, [&](std::int64_t t) {
    const Token token = score(c, o, p, f.logits, t);
    record(f.routing, c, t, token);
    const std::span<std::int64_t> ids(f.indices.data() + t * k, static_cast<std::size_t>(k));
    const std::vector<std::int64_t> own =
        replay ? std::vector<std::int64_t>(replay->begin() + t * k, replay->begin() + (t + 1) * k)
               : select_experts(token.choice, c);
    std::copy(own.begin(), own.end(), ids.begin());

    const std::vector<std::int64_t> slots = filled_slots(c, ids);
    Row values = select_values(c, o, token, ids_of_slots(ids, slots));
    if (c.normalises_weights()) values = normalise(c, values);
    for (std::size_t j = 0; j < slots.size(); ++j) {
      const Real scaled = values[j] * c.route_scale;
      f.weights.set(
          t, slots[j],
          store(p.scale ? scaled * expert_scale(p, ids, slots[j]) : scaled, precision(f.scores.dtype)));
    }
    const Row seen = c.normalises_scores() ? normalise(c, token.weighed) : token.weighed;
    for (std::int64_t i = 0; i < c.n_routed_experts; ++i)
      f.scores.set(t, i, seen[static_cast<std::size_t>(i)]);
  });

  forced.settle("stages/scores", f.scores, {tokens, c.n_routed_experts});
  f.load = expert_load(f.indices, mask, c.n_routed_experts);
  if (o.training && c.aux_loss_coeff > 0.0) {
    SequenceLoss loss = mean_loss(sequence_losses(c, o, f, mask));
    f.aux_loss = loss.value;
    f.aux_terms = std::move(loss.terms);
  }
  if (o.training && c.z_loss_coeff > 0.0) f.z_loss = z_loss(o, f.logits, mask);
  return f;
}

namespace {

/// The gradient of per_expert_scale: the sum of dw times the weights without it over all slots of an expert,
/// in any order, in the parameter's own type.
Bounded scale_gradient(const MoEConfig& c, const CallOptions& o, const GateParams& p, const GateForward& f,
                       const Bounded& dw) {
  std::vector<Sum> sums(static_cast<std::size_t>(c.n_routed_experts), Sum(precision(p.stored)));
  const std::int64_t k = c.n_activated_experts;
  for (std::int64_t t = 0; t < dw.rows; ++t) {
    const Token token = score(c, o, p, f.logits, t);
    const Ids all(f.indices.data() + t * k, static_cast<std::size_t>(k));
    const std::vector<std::int64_t> slots = filled_slots(c, all), ids = ids_of_slots(all, slots);
    Row values = select_values(c, o, token, ids);
    if (c.normalises_weights()) values = normalise(c, values);
    for (std::size_t j = 0; j < slots.size(); ++j)
      sums[static_cast<std::size_t>(ids[j])] +=
          store(store(dw.at(t, slots[j]), precision(f.scores.dtype)) * (values[j] * c.route_scale),
                precision(p.stored));
  }
  Bounded out(1, c.n_routed_experts, p.stored);
  for (std::int64_t e = 0; e < out.cols; ++e) out.set(e, sums[static_cast<std::size_t>(e)].total());
  return out;
}

}  // namespace

GateBackward gate_backward(const MoEConfig& c, const CallOptions& o, const GateParams& p, const Bounded& x,
                           const std::vector<bool>& mask, const GateForward& f, const Bounded& dw) {
  const std::int64_t tokens = x.rows, k = c.n_activated_experts;
  const auto experts = static_cast<std::size_t>(c.n_routed_experts);
  const ScoreRule& rule = score_rule(c.score_func);
  const Precision scores_held = precision(f.scores.dtype);
  std::vector<Row> aux_of;  // one per sequence
  if (f.aux_loss) {
    const Real scale =
        store(known(o.aux_loss_backward_scale, {}), precision(DType::float32)) * c.aux_loss_coeff;
    const auto sequences = static_cast<double>(f.aux_terms.size());
    for (const AuxLossTerms& terms : f.aux_terms) {
      Row& aux = aux_of.emplace_back();
      for (const Real d : aux_loss_gradient(terms, sequences > 1.0 ? scale / sequences : scale))
        aux.push_back(store(d, scores_held));
    }
  }
  const Real z_scale =
      store(known(o.aux_loss_backward_scale, {}), precision(DType::float32)) * c.z_loss_coeff;
  const Precision z_held = precision(c.maps_logits() ? score_compute_type(o) : f.logits.dtype);
  Bounded dz(tokens, c.n_routed_experts, f.logits.dtype);

  parallel_for(tokens, [&](std::int64_t t) {
    const Token token = score(c, o, p, f.logits, t);
    const Ids all(f.indices.data() + t * k, static_cast<std::size_t>(k));
    const std::vector<std::int64_t> slots = filled_slots(c, all), ids = ids_of_slots(all, slots);
    const Row values = select_values(c, o, token, ids);

    // Back through the casts, scale and normalisation to the selected values.
    const Precision held = token.weighed[0].held;
    Row d_values;
    for (const std::int64_t j : slots) {
      const Real above = store(dw.at(t, j), scores_held);
      d_values.push_back(store(p.scale ? above * expert_scale(p, all, j) : above, held) * c.route_scale);
    }
    if (c.normalises_weights()) {
      const NormaliseGradient back = normalise_gradient(c, values, d_values);
      for (std::size_t j = 0; j < d_values.size(); ++j) d_values[j] = back.direct[j] + back.through_sum;
    }

    // The gradients of S and of z are sums in any order: of the auxiliary loss's, directly and through the
    // sum of S, and of the selected values', which arrive at S or at z.
    std::vector<Sum> at_scores(experts, Sum(held)), at_logits(experts, Sum(z_held));
    if (!aux_of.empty() && mask[static_cast<std::size_t>(t)]) {
      Row d_scores;
      for (const Real d : aux_of[static_cast<std::size_t>(t * std::ssize(aux_of) / tokens)])
        d_scores.push_back(store(d, held));
      if (c.normalises_scores()) {
        const NormaliseGradient back = normalise_gradient(c, token.weighed, d_scores);
        for (Sum& sum : at_scores) sum += back.through_sum;
        d_scores = back.direct;
      }
      for (std::size_t i = 0; i < experts; ++i) at_scores[i] += d_scores[i];
    }
    if (scores_after_topk(c)) d_values = rule.gradient(gather(token.logits, ids), values, d_values);
    for (std::size_t j = 0; j < ids.size(); ++j) {
      const auto id = static_cast<std::size_t>(ids[j]);
      if (scores_after_topk(c))
        at_logits[id] += store(d_values[j], z_held);
      else
        at_scores[id] += d_values[j];
    }
    Row d_scores;
    for (std::size_t i = 0; i < experts; ++i)
      d_scores.push_back(store(at_scores[i].total(), token.scores[i].held));
    const Row through_scores = rule.gradient(token.logits, token.scores, d_scores);
    // The z-loss reaches the logits themselves.
    Row through_z;
    if (f.z_loss && mask[static_cast<std::size_t>(t)])
      through_z = z_loss_gradient(o, f.logits, t, real_tokens(mask), z_scale);
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
  out.x = cast(multiply(dz, false, p.weight, false, sums, compute), x.dtype);
  const auto ranks = rank_offsets(o.parallel.size(), o.parallel.tokens_per_rank, x.rows);
  out.weight = weight_gradient(dz, cast(x, compute), sums, compute, p.stored, ranks);
  if (p.bias) out.bias = bias_gradient(dz, compute, p.stored, ranks);
  if (p.scale) out.scale = scale_gradient(c, o, p, f, dw);
  return out;
}

}  // namespace moeref
