// The gate of the eager port: forward as the documented system's operations follow one another, backward as
// its automatic differentiation does.
#include <string>
#include <vector>

#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {
namespace {

bool after_topk(const MoEConfig& c) { return c.score_func == ScoreFunc::softmax && !c.softmax_before_topk; }
bool divides_weights(const MoEConfig& c) {
  return c.norm_topk_prob && (c.n_activated_experts > 1 || c.norm_at_top1 == Top1Norm::weights_and_scores);
}
bool divides_scores(const MoEConfig& c) {
  return c.norm_topk_prob && (c.n_activated_experts > 1 || c.norm_at_top1 != Top1Norm::none);
}
bool weighs_with_correction(const MoEConfig& c) {
  return c.score_func == ScoreFunc::sigmoid && c.has_correction_bias() &&
         c.router_weight_uses_score_correction_bias;
}

/// The type that the score function runs in, and of S before normalisation.
DType activated_type(const MoEConfig& c, const CallOptions& o) {
  return c.score_func == ScoreFunc::sqrtsoftplus ? DType::float32 : o.gate_precision.value_or(DType::float32);
}
DType plain_type(const MoEConfig& c, const CallOptions& o) {
  const DType t = activated_type(c, o);
  return weighs_with_correction(c) ? common(t, DType::float32) : t;
}
bool casts_back(const MoEConfig& c, const CallOptions& o) {
  return o.gate_precision && !c.router_weights_fp32;
}

}  // namespace

GateResult gate_forward(const Workspace& w, const MoEConfig& c, const CallOptions& o,
                        const NamedTensors& tensors, const std::string& prefix, const Matrix& x,
                        const std::vector<bool>& mask, const Tensor* replay, const Row* correction) {
  const DType compute = o.gate_precision.value_or(x.stored);
  const auto kind = [&](DType t) { return w.o.fused ? wide(t) : t; };
  const DType activated = kind(activated_type(c, o)), plain = kind(plain_type(c, o));
  const DType softmax_type = kind(o.gate_precision.value_or(DType::float32));
  const std::int64_t e = c.n_routed_experts, k = c.n_activated_experts;
  GateResult g;
  g.noise = c.router_jitter ? find(tensors, "inputs/router_noise") : nullptr;
  g.given = g.noise ? jittered(w, x, *g.noise) : x;
  g.x = c.router_input_norm ? normed_input(w, c, g.given, require(tensors, prefix + "input_scale"), compute)
                            : w.cast_to(g.given, compute);
  g.weight = w.load(require(tensors, prefix + "weight"), 0, e, c.dim, compute);
  Matrix bias;
  if (c.router_bias) bias = w.load(require(tensors, prefix + "bias"), 0, 1, e, compute);
  g.logits = w.linear(g.x, g.weight, c.router_bias ? &bias : nullptr);
  g.activated = w.make(x.rows, e, activated);
  g.plain = w.make(x.rows, e, plain);
  g.selected = w.make(x.rows, k, plain);
  g.unscaled = w.make(x.rows, k, plain);
  Matrix scale;
  if (c.per_expert_scale) {
    const Tensor& given = require(tensors, prefix + "per_expert_scale");
    scale = w.load(given, 0, 1, e, given.dtype());
  }
  g.weights = w.make(x.rows, k, c.router_weights_fp32 ? DType::float32 : x.stored);
  g.scores = w.make(x.rows, e, casts_back(c, o) ? x.stored : plain_type(c, o));

  const bool limits = c.capacity_factor > 0.0 || c.expert_capacity > 0;
  std::vector<bool> kept(static_cast<std::size_t>(x.rows * k), true);
  const auto weigh = [&](std::int64_t t, bool divides) {
    Row values;
    std::vector<bool> live;
    std::vector<std::int64_t> slots;
    for (std::int64_t j = 0; j < k; ++j) {
      const auto slot = static_cast<std::size_t>(t * k + j);
      if (g.ids[slot] < 0 || g.ids[slot] >= e) continue;
      slots.push_back(j);
      values.push_back(g.selected.at(t, j));
      live.push_back(kept[slot] || !c.norm_after_dropping);
    }
    const Row weights = divided(c, values, live, divides, w.o.order);
    for (std::size_t j = 0; j < slots.size(); ++j) {
      const auto slot = static_cast<std::size_t>(t * k + slots[j]);
      Num weight = kept[slot] ? weights[j] : Num{0.0, weights[j].t};
      g.unscaled.set(t, slots[j], weight);
      if (c.per_expert_scale) weight = weight * scale.at(0, g.ids[slot]);
      g.weights.set(t, slots[j], casts_back(c, o) && !w.o.fused ? cast(weight, x.stored) : weight);
    }
  };

  std::vector<Row> balanced(static_cast<std::size_t>(x.rows));
  if (o.training && c.selection_scores == SelectionScores::sinkhorn) {
    std::vector<Row> scored;
    for (std::int64_t t = 0; t < x.rows; ++t) scored.push_back(mapped(c, g.logits.row(t), softmax_type));
    const auto ranks = rank_offsets(o.parallel.size(), o.parallel.tokens_per_rank, x.rows);
    for (std::size_t r = 0; r + 1 < ranks.size(); ++r)
      balance(c, scored, ranks[r], ranks[r + 1], w.o.order, balanced);
  }
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const Row z = mapped(c, g.logits.row(t), softmax_type);
    const Row s = scored(c, z, softmax_type, activated, w.o.order);
    Row q = c.selection_scores == SelectionScores::logits && c.score_func != ScoreFunc::softmax ? z : s;
    g.unbiased.push_back(q);
    if (c.score_func != ScoreFunc::softmax && correction)
      for (std::size_t i = 0; i < q.size(); ++i) q[i] = q[i] + (*correction)[i];
    const Row seen = weighs_with_correction(c) ? q : s;

    const Row& even = balanced[static_cast<std::size_t>(t)];
    std::vector<std::int64_t> ids = choose(c, !even.empty() ? even : after_topk(c) ? z : q);
    if (replay)
      for (std::int64_t j = 0; j < k; ++j)
        ids[static_cast<std::size_t>(j)] = static_cast<std::int64_t>((*replay)[t * k + j]);
    g.ids.insert(g.ids.end(), ids.begin(), ids.end());

    Row values;  // of the slots that have an expert
    std::vector<std::int64_t> slots;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t id = ids[static_cast<std::size_t>(j)];
      if (id < 0 || id >= e) continue;
      slots.push_back(j);
      values.push_back((after_topk(c) ? z : seen)[static_cast<std::size_t>(id)]);
    }
    if (after_topk(c)) values = softmax(values, softmax_type, w.o.order);
    for (std::size_t j = 0; j < slots.size(); ++j) g.selected.set(t, slots[j], values[j]);
    weigh(t, divides_weights(c) && !(limits && c.norm_after_dropping));
    Row scores = seen;
    if (divides_scores(c)) {
      const Num all = denominator(c, seen, w.o.order);
      for (Num& a : scores) a = a / all;
    }
    for (std::int64_t i = 0; i < e; ++i) {
      g.activated.set(t, i, s[static_cast<std::size_t>(i)]);
      g.plain.set(t, i, seen[static_cast<std::size_t>(i)]);
      g.scores.set(t, i, scores[static_cast<std::size_t>(i)]);
    }
  }
  g.dispatched = g.ids;
  if (limits) {
    const auto ranks = rank_offsets(o.parallel.size(), o.parallel.tokens_per_rank, x.rows);
    for (std::size_t r = 0; r + 1 < ranks.size(); ++r) drop(c, g, mask, ranks[r], ranks[r + 1], kept);
    for (std::size_t slot = 0; slot < kept.size(); ++slot)
      if (!kept[slot]) g.dispatched[slot] = c.null_slots == NullSlots::n_routed_experts ? e : -1;
    for (std::int64_t t = 0; t < x.rows; ++t) weigh(t, divides_weights(c));
  }
  g.load = load_of(g.ids, mask, k, e);
  if (o.training && c.z_loss_coeff > 0.0) g.z_loss = z_loss(w, o, g.logits, mask);
  if (o.training)
    g.losses = gate_losses(w, c, g.scores, g.ids, mask, find(tensors, "inputs/accumulated_expert_load"));
  return g;
}

Matrix gate_backward(const Workspace& w, const MoEConfig& c, const CallOptions& o,
                     const NamedTensors& tensors, const std::string& prefix, const std::vector<bool>& mask,
                     const GateResult& g, const Matrix& dw, DType x_type, NamedTensors& out) {
  const Order order = w.o.order;
  const std::int64_t e = c.n_routed_experts, k = c.n_activated_experts, tokens = g.logits.rows;
  const DType plain = g.plain.read, z_type = g.logits.read, activated = g.activated.read;
  const auto through = [&](Num d) { return casts_back(c, o) && !w.o.fused ? cast(d, x_type) : d; };
  const DType own_type = o.gate_precision.value_or(DType::float32);
  const DType map_type = w.o.fused ? wide(own_type) : own_type;
  Matrix dz = w.make(tokens, e, g.logits.stored);
  Matrix scale;
  std::vector<Row> to_scale(static_cast<std::size_t>(e));
  if (c.per_expert_scale) {
    const Tensor& given = require(tensors, prefix + "per_expert_scale");
    scale = w.load(given, 0, 1, e, given.dtype());
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    Row d, selected;
    std::vector<std::int64_t> ids;
    std::vector<bool> kept;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t id = g.ids[static_cast<std::size_t>(t * k + j)];
      if (id < 0 || id >= e) continue;
      ids.push_back(id);
      selected.push_back(g.selected.at(t, j));
      kept.push_back(g.dispatched[static_cast<std::size_t>(t * k + j)] == id);
      const Num reached = kept.back() ? dw.at(t, j) : Num{0.0, dw.read};
      Num above = cast(through(reached), c.per_expert_scale ? common(plain, scale.read) : plain);
      if (c.per_expert_scale) {
        to_scale[static_cast<std::size_t>(id)].push_back(cast(above * g.unscaled.at(t, j), scale.stored));
        above = above * scale.at(0, id);
      }
      d.push_back(cast(above, plain) * c.route_scale);
    }
    Row divided_values, divided_d;
    for (std::size_t j = 0; j < d.size(); ++j)
      if (kept[j] || !c.norm_after_dropping) {
        divided_values.push_back(selected[j]);
        divided_d.push_back(d[j]);
      }
    if (divides_weights(c) && !divided_d.empty()) {
      const NormaliseGradient back = normalise_gradient(c, divided_values, divided_d, order);
      for (std::size_t j = 0, next = 0; j < d.size(); ++j)
        if (kept[j] || !c.norm_after_dropping) {
          d[j] = accumulate({back.direct[next], back.through_sum}, plain, order);
          ++next;
        }
    }
    // Everything that meets in S and in z, in the order of arrival.
    std::vector<Row> to_scores(static_cast<std::size_t>(e)), to_logits(static_cast<std::size_t>(e));
    Row scattered(static_cast<std::size_t>(e), Num{0.0, plain});
    if (after_topk(c)) d = softmax_gradient(selected, d, plain, order);
    for (std::size_t j = 0; j < ids.size(); ++j) {
      Num& at = scattered[static_cast<std::size_t>(ids[j])];
      at = at + d[j];
    }
    for (std::size_t i = 0; i < scattered.size(); ++i)
      (after_topk(c) ? to_logits : to_scores)[i].push_back(scattered[i]);
    if (!g.losses.empty()) {
      // A port may make S anew for each loss, or gather weights from the S that losses see.
      const bool apart = order == Order::pairwise || (!divides_scores(c) && !casts_back(c, o));
      for (const Row& loss : gate_losses_gradients(w, o, g, mask, t, apart)) {
        Row aux;
        for (const Num d : loss) aux.push_back(cast(d, plain));
        const NormaliseGradient back = divides_scores(c) ? normalise_gradient(c, g.plain.row(t), aux, order)
                                                         : NormaliseGradient{aux, Num{0.0, plain}};
        for (std::size_t i = 0; i < aux.size(); ++i) {
          to_scores[i].push_back(back.direct[i]);
          to_scores[i].push_back(back.through_sum);
        }
      }
    }
    Row ds;
    for (const Row& terms : to_scores) ds.push_back(cast(accumulate(terms, plain, order), activated));
    ds = score_gradient(c, g.activated.row(t), mapped(c, g.logits.row(t), map_type), ds, activated, order);
    Row from_z;
    if (o.training && c.z_loss_coeff > 0.0 && mask[static_cast<std::size_t>(t)])
      from_z = z_loss_gradient(w, c, o, g.logits, mask, t);
    for (std::size_t i = 0; i < ds.size(); ++i) {
      to_logits[i].push_back(ds[i]);
      if (!from_z.empty() && c.logit_scale == 1.0 && c.logit_cap == 0.0) to_logits[i].push_back(from_z[i]);
      const auto e_i = static_cast<std::int64_t>(i);
      if (c.logit_scale == 1.0 && c.logit_cap == 0.0)
        dz.set(t, e_i, accumulate(to_logits[i], z_type, order));
      else
        dz.set(t, e_i,
               accumulate(
                   {cast(mapped_gradient(c, g.logits.at(t, e_i), accumulate(to_logits[i], map_type, order)),
                         z_type),
                    from_z.empty() ? Num{0.0, z_type} : from_z[i]},
                   z_type, order));
    }
  }
  const DType compute = g.logits.stored;
  if (c.train_gate) {
    const Tensor& weight = require(tensors, prefix + "weight");
    const std::string to = "grads/" + prefix.substr(prefix.find('/') + 1);
    out[to + "weight"] = to_tensor(w.multiply(dz, true, g.x, false, compute), weight.shape(), weight.dtype());
    if (c.router_bias) {
      const Tensor& bias = require(tensors, prefix + "bias");
      out[to + "bias"] = to_tensor(w.sum_rows(dz), bias.shape(), bias.dtype());
    }
    if (c.per_expert_scale) {
      Matrix d_scale = w.make(1, e, scale.stored);
      for (std::int64_t i = 0; i < e; ++i)
        d_scale.set(0, i, accumulate(to_scale[static_cast<std::size_t>(i)], scale.stored, order));
      out[to + "per_expert_scale"] = to_tensor(d_scale, {e}, scale.stored);
    }
  }
  const std::string to = c.train_gate ? "grads/" + prefix.substr(prefix.find('/') + 1) + "input_scale" : "";
  const Matrix back = w.multiply(dz, false, g.weight, false, compute);
  const Matrix dx =
      c.router_input_norm
          ? normed_input_gradient(w, c, g.given, require(tensors, prefix + "input_scale"), back, to, out)
          : w.cast_to(back, x_type);
  return g.noise ? jittered(w, dx, *g.noise) : dx;
}

}  // namespace moeref::eager
