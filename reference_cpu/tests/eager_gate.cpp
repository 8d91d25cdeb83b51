// The gate of the eager port: forward as the documented system's operations follow one another, backward as
// its automatic differentiation does.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {
namespace {

using Row = std::vector<Num>;

bool is_softmax(const MoEConfig& c) {
  return c.score_func == ScoreFunc::softmax || c.score_func == ScoreFunc::softmax_with_bias;
}
bool after_topk(const MoEConfig& c) { return c.score_func == ScoreFunc::softmax && !c.softmax_before_topk; }
bool divides_weights(const MoEConfig& c) {
  return c.norm_topk_prob && (c.n_activated_experts > 1 || c.norm_at_top1 == Top1Norm::weights_and_scores);
}
bool divides_scores(const MoEConfig& c) {
  return c.norm_topk_prob && (c.n_activated_experts > 1 || c.norm_at_top1 != Top1Norm::none);
}
bool takes_maximum(const MoEConfig& c) { return c.norm_denominator == NormDenominator::max_of_sum_and_eps; }
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

/// Logits as they are scored, computed in `t`, and the slopes of that by the logits.
Row mapped(const MoEConfig& c, const Row& z, DType t) {
  if (c.logit_scale == 1.0 && c.logit_cap == 0.0) return z;
  Row out;
  for (const Num a : z) {
    const Num scaled = cast(a, t) * c.logit_scale;
    out.push_back(c.logit_cap > 0.0 ? tanh(scaled / c.logit_cap) * c.logit_cap : scaled);
  }
  return out;
}
Num mapped_gradient(const MoEConfig& c, Num z, Num d) {
  if (c.logit_cap == 0.0) return d * c.logit_scale;
  const Num t = tanh(cast(z, d.t) * c.logit_scale / c.logit_cap);
  return d * (1.0 - t * t) * c.logit_scale;
}

/// Converted to `t` first, computed in float (double), rounded once.
Row softmax(const Row& z, DType t, Order order) {
  Row e;
  double largest = -std::numeric_limits<double>::infinity();
  for (const Num a : z) {
    e.push_back({round_as(t, a.v), wide(t)});
    if (!(e.back().v <= largest)) largest = e.back().v;
  }
  for (Num& a : e) a = apply(a - Num{largest, wide(t)}, [](auto x) { return std::exp(x); });
  const Num total = sum(e, wide(t), order);
  for (Num& a : e) a = cast(a / total, t);
  return e;
}

Row softmax_gradient(const Row& s, const Row& d, DType t, Order order) {
  Row product, out;
  for (std::size_t i = 0; i < s.size(); ++i) product.push_back(cast(s[i], wide(t)) * cast(d[i], wide(t)));
  const Num inner = sum(product, wide(t), order);
  for (std::size_t i = 0; i < s.size(); ++i)
    out.push_back(cast((cast(d[i], wide(t)) - inner) * cast(s[i], wide(t)), t));
  return out;
}

/// The k largest in descending order, NaN first, the lowest id among equals.
std::vector<std::int64_t> largest(const std::vector<double>& q, std::int64_t k) {
  std::vector<std::int64_t> ids(q.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int64_t a, std::int64_t b) {
    const double x = q[static_cast<std::size_t>(a)], y = q[static_cast<std::size_t>(b)];
    return std::isnan(x) ? !std::isnan(y) : x > y;
  });
  ids.resize(static_cast<std::size_t>(k));
  return ids;
}

std::vector<std::int64_t> choose(const MoEConfig& c, const Row& q) {
  std::vector<double> values;
  for (const Num a : q) values.push_back(a.v);
  const bool without = c.score_func == ScoreFunc::softmax || (c.score_func == ScoreFunc::sqrtsoftplus &&
                                                              c.group_score == GroupScore::by_score_func);
  if (c.n_expert_groups == 1 || without) {
    const auto shared = static_cast<std::size_t>(c.n_always_selected);
    values.resize(values.size() - shared);
    auto ids = largest(values, c.n_activated_experts - c.n_always_selected);
    for (std::size_t i = 0; i < shared; ++i) ids.push_back(static_cast<std::int64_t>(values.size() + i));
    return ids;
  }
  const auto size = static_cast<std::size_t>(c.n_routed_experts / c.n_expert_groups);
  std::int64_t summed = c.score_func == ScoreFunc::sigmoid && !c.has_correction_bias() ? 1 : 2;
  if (c.group_score == GroupScore::largest) summed = 1;
  if (c.group_score == GroupScore::top2_sum) summed = 2;
  if (c.group_score == GroupScore::topk_over_g_sum) summed = c.n_activated_experts / c.n_limited_groups;
  bool to_zero = c.score_func != ScoreFunc::sigmoid_with_bias;
  if (c.discarded_groups != DiscardedGroups::by_score_func)
    to_zero = c.discarded_groups == DiscardedGroups::zero;
  std::vector<double> groups;
  for (std::size_t g = 0; g < q.size() / size; ++g) {
    const std::vector<double> members(values.begin() + g * size, values.begin() + (g + 1) * size);
    Num score{0.0, q[0].t};
    for (const std::int64_t i : largest(members, summed))
      score = score + Num{members[static_cast<std::size_t>(i)], q[0].t};
    groups.push_back(score.v);
  }
  const auto kept = largest(groups, c.n_limited_groups);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (std::ranges::find(kept, static_cast<std::int64_t>(i / size)) == kept.end())
      values[i] = to_zero ? values[i] * 0.0 : -INFINITY;
  return largest(values, c.n_activated_experts);
}

Num denominator(const MoEConfig& c, const Row& row, Order order) {
  const Num all = sum(row, row[0].t, order);
  if (!takes_maximum(c)) return all + c.norm_eps;
  const double least = round_as(all.t, c.norm_eps);
  return all.v < least ? Num{least, all.t} : all;
}

/// d by the row directly, and through the sum.
struct NormaliseGradient {
  Row direct;
  Num through_sum;
};
NormaliseGradient normalise_gradient(const MoEConfig& c, const Row& row, const Row& d, Order order) {
  const Num total = denominator(c, row, order);
  NormaliseGradient out;
  Row terms;
  for (std::size_t i = 0; i < row.size(); ++i) {
    out.direct.push_back(d[i] / total);
    terms.push_back(-d[i] * ((row[i] / total) / total));
  }
  out.through_sum = sum(terms, total.t, order);
  const bool held = takes_maximum(c) && sum(row, row[0].t, order).v < round_as(total.t, c.norm_eps);
  if (held) out.through_sum.v = 0.0;
  return out;
}

}  // namespace

namespace {

/// A slot's weight before per_expert_scale, from the k values of its token of which `live` count.
Row divided(const MoEConfig& c, const Row& values, const std::vector<bool>& live, bool divides, Order order) {
  Row out = values, counted;
  for (std::size_t j = 0; j < values.size(); ++j)
    if (live[j]) counted.push_back(values[j]);
  if (divides && !counted.empty()) {
    const Num total = denominator(c, counted, order);
    for (Num& a : out) a = a / total;
  }
  for (Num& a : out) a = a * c.route_scale;
  return out;
}

/// Megatron-Core's sinkhorn() of the tokens [first, last), in float.
void balance(const MoEConfig& c, const std::vector<Row>& logits, std::int64_t first, std::int64_t last,
             Order order, std::vector<Row>& q) {
  const DType f = DType::float32;
  const auto tokens = static_cast<std::size_t>(last - first),
             experts = static_cast<std::size_t>(c.n_routed_experts);
  std::vector<Row> cost(tokens);
  for (std::size_t t = 0; t < tokens; ++t)
    for (const Num z : logits[static_cast<std::size_t>(first) + t])
      cost[t].push_back(apply(cast(z, f), [](auto v) { return std::exp(v); }));
  Row d0(tokens, Num{1.0, f}), d1(experts, Num{1.0, f});
  const auto evened = [&](const Row& terms, std::size_t n) {
    const Num share{round_as(f, 1.0 / static_cast<double>(n)), f};
    return share / (sum(terms, f, order) + 1e-8);
  };
  for (double error = 1e9; tokens > 0 && error > c.sinkhorn_tolerance;) {
    for (std::size_t t = 0; t < tokens; ++t) {
      Row terms;
      for (std::size_t e = 0; e < experts; ++e) terms.push_back(d1[e] * cost[t][e]);
      d0[t] = evened(terms, tokens);
    }
    Row changes;
    for (std::size_t e = 0; e < experts; ++e) {
      Row terms;
      for (std::size_t t = 0; t < tokens; ++t) terms.push_back(d0[t] * cost[t][e]);
      const Num next = evened(terms, experts);
      changes.push_back(apply(d1[e] - next, [](auto v) { return std::abs(v); }));
      d1[e] = next;
    }
    error = (sum(changes, f, order) / static_cast<double>(experts)).v;
  }
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < experts; ++e)
      q[static_cast<std::size_t>(first) + t].push_back(d1[e] * cost[t][e] * d0[t]);
}

/// Which slots are kept, as a rank with the tokens [first, last) finds out: places in line at each expert.
void drop(const MoEConfig& c, const GateResult& g, const std::vector<bool>& mask, std::int64_t first,
          std::int64_t last, std::vector<bool>& kept) {
  const std::int64_t k = c.n_activated_experts;
  double capacity = static_cast<double>(c.expert_capacity);
  if (c.expert_capacity == 0) {
    const double tokens = static_cast<double>((last - first) * k);
    capacity = std::max(std::ceil(tokens / static_cast<double>(c.n_routed_experts) * c.capacity_factor),
                        static_cast<double>(c.min_capacity));
  }
  std::vector<std::int64_t> line;
  for (std::int64_t slot = first * k; slot < last * k; ++slot) line.push_back(slot);
  if (c.capacity_order == CapacityOrder::choice) {
    line.clear();
    for (std::int64_t j = 0; j < k; ++j)
      for (std::int64_t t = first; t < last; ++t) line.push_back(t * k + j);
  }
  if (c.capacity_order == CapacityOrder::weight)
    std::ranges::stable_sort(line, [&](std::int64_t a, std::int64_t b) {
      const double x = g.weights.at(a / k, a % k).v, y = g.weights.at(b / k, b % k).v;
      return std::isnan(x) ? !std::isnan(y) : x > y;
    });
  std::vector<double> taken(static_cast<std::size_t>(c.n_routed_experts), 0.0);
  for (const std::int64_t slot : line) {
    const std::int64_t id = g.ids[static_cast<std::size_t>(slot)];
    if (id < 0 || id >= c.n_routed_experts || !mask[static_cast<std::size_t>(slot / k)]) continue;
    double& place = taken[static_cast<std::size_t>(id)];
    if (++place > capacity) kept[static_cast<std::size_t>(slot)] = false;
  }
}

}  // namespace

std::vector<std::int64_t> load_of(const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                  std::int64_t k, std::int64_t experts) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(mask.size()); ++t)
    for (std::int64_t e = 0; e < experts; ++e) {
      const auto first = ids.begin() + t * k;
      if (mask[static_cast<std::size_t>(t)] && std::find(first, first + k, e) != first + k)
        ++load[static_cast<std::size_t>(e)];
    }
  return load;
}

AuxLossResult aux_loss(const Workspace& w, const MoEConfig& c, const Matrix& scores,
                       const std::vector<std::int64_t>& all_ids, const std::vector<bool>& mask,
                       const Tensor* accumulated) {
  AuxLossResult out;
  const std::int64_t slots = c.n_activated_experts, length = scores.rows / c.aux_loss_sequences;
  const bool first_alone = c.aux_loss_counts == AuxLossCounts::first_choice;
  std::vector<std::int64_t> ids;
  for (std::size_t i = 0; i < all_ids.size(); ++i)
    if (!first_alone || i % static_cast<std::size_t>(slots) == 0) ids.push_back(all_ids[i]);
  const std::int64_t k = first_alone ? 1 : slots;
  const double divisor = c.aux_loss_factor == AuxLossFactor::experts ? 1.0 : static_cast<double>(k);
  Row losses;
  for (std::int64_t first = 0; first + length <= scores.rows; first += std::max<std::int64_t>(length, 1)) {
    const std::vector<bool> own(mask.begin() + first, mask.begin() + first + length);
    const auto load =
        load_of({ids.begin() + first * k, ids.begin() + (first + length) * k}, own, k, scores.cols);
    const double n = std::max<double>(static_cast<double>(std::ranges::count(own, true)), 1.0);
    Row terms, f;
    for (std::int64_t i = 0; i < scores.cols; ++i) {
      Row column;
      for (std::int64_t t = first; t < first + length; ++t)
        column.push_back(cast(scores.at(t, i), DType::float32) *
                         (mask[static_cast<std::size_t>(t)] ? 1.0 : 0.0));
      Num count{static_cast<double>(load[static_cast<std::size_t>(i)]), DType::float32};
      if (accumulated) {
        double before = 0.0;
        for (std::int64_t e = 0; e < scores.cols; ++e) before += (*accumulated)[e];
        const Num tokens = Num{before, DType::float32} / static_cast<double>(k) + n;
        count = count + Num{(*accumulated)[i], DType::float32};
        f.push_back(count / tokens * (static_cast<double>(scores.cols) / divisor));
      } else {
        f.push_back(count * static_cast<double>(scores.cols) / (divisor * n));
      }
      terms.push_back(f.back() * (sum(column, DType::float32, w.o.order) / n));
    }
    losses.push_back(sum(terms, DType::float32, w.o.order));
    for (std::int64_t t = 0; t < length; ++t) {
      out.f.push_back(f);
      out.n.push_back(n * static_cast<double>(c.aux_loss_sequences));
    }
    if (length == 0) break;
  }
  out.loss = (sum(losses, DType::float32, w.o.order) / static_cast<double>(c.aux_loss_sequences)).v;
  return out;
}

namespace {

Num log_sum_exp(const Row& z, Order order) {
  double largest = z[0].v;
  for (const Num a : z) largest = std::max(largest, a.v);
  Row e;
  for (const Num a : z) e.push_back(apply(a - Num{largest, a.t}, [](auto x) { return std::exp(x); }));
  return Num{largest, z[0].t} + apply(sum(e, z[0].t, order), [](auto x) { return std::log(x); });
}

/// float32, or float64 where the gate computes in it.
Row z_loss_logits(const CallOptions& o, const Row& z) {
  Row out;
  for (const Num a : z) out.push_back(cast(a, wide(o.gate_precision.value_or(DType::float32))));
  return out;
}

}  // namespace

namespace {

/// As Megatron-Core multiplies the gate's input by noise of its own type; of a cotangent the way back too.
Matrix jittered(const Workspace& w, const Matrix& x, const Tensor& noise) {
  const Matrix n = w.load(noise, x.cols, noise.dtype());
  Matrix out = w.make(x.rows, x.cols, x.stored);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i) out.set(t, i, x.at(t, i) * n.at(t, i));
  return out;
}

/// What rms-norm without a weight makes of a token in float, and the factor that it multiplies by.
Row normed(const MoEConfig& c, const Row& x, DType stored, Order order, Num& factor) {
  Row squares, out;
  for (const Num a : x) squares.push_back(square(cast(a, DType::float32)));
  const Num mean =
      sum(squares, DType::float32, order) / static_cast<double>(x.size()) + c.router_input_norm_eps;
  factor = apply(mean, [](auto v) { return static_cast<decltype(v)>(std::pow(v, -0.5f)); });
  for (const Num a : x) out.push_back(cast(cast(a, DType::float32) * factor, stored));
  return out;
}

double inverse_root(const MoEConfig& c) { return 1.0 / std::sqrt(static_cast<double>(c.dim)); }

/// The gate's input as Gemma 4 makes it, in `compute`.
Matrix normed_input(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                    DType compute) {
  Matrix out = w.make(x.rows, x.cols, compute);
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num factor;
    const Row n = normed(c, x.row(t), x.read, w.o.order, factor);
    for (std::int64_t i = 0; i < x.cols; ++i)
      out.set(t, i, n[static_cast<std::size_t>(i)] * s.at(0, i) * inverse_root(c));
  }
  return out;
}

/// Back through it: the gradient of x, and that of the scale into `out`.
Matrix normed_input_gradient(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                             const Matrix& d, const std::string& name, NamedTensors& out) {
  const DType f = DType::float32;
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  const DType scaled = common(x.read, s.read);
  Matrix dx = w.make(x.rows, x.cols, x.stored), to_scale = w.make(x.rows, x.cols, common(x.stored, s.stored));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num factor;
    const Row n = normed(c, x.row(t), x.read, w.o.order, factor);
    Row dn, products;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Num by_scaled = cast(d.at(t, i), scaled) * inverse_root(c);
      to_scale.set(t, i, by_scaled * n[static_cast<std::size_t>(i)]);
      dn.push_back(cast(cast(by_scaled * s.at(0, i), x.read), f));
      products.push_back(dn.back() * cast(x.at(t, i), f));
    }
    // The power's gradient, then the mean's and the square's.
    const Num d_mean = sum(products, f, w.o.order) * -0.5 * (factor * factor * factor);
    const Num each = d_mean / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i)
      dx.set(t, i, dn[static_cast<std::size_t>(i)] * factor + each * 2.0 * cast(x.at(t, i), f));
  }
  if (!name.empty()) out[name] = to_tensor(w.sum_rows(to_scale), scale.shape(), scale.dtype());
  return dx;
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
    Row s;
    if (is_softmax(c)) {
      s = softmax(z, softmax_type, w.o.order);
    } else {
      for (const Num a : z)
        s.push_back(c.score_func == ScoreFunc::sqrtsoftplus ? sqrt(softplus(cast(a, activated)))
                                                            : sigmoid(cast(a, activated)));
    }
    Row q = c.selection_scores == SelectionScores::logits && c.score_func != ScoreFunc::softmax ? z : s;
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
  if (o.training && c.z_loss_coeff > 0.0) {
    Row terms;
    for (std::int64_t t = 0; t < x.rows; ++t)
      if (mask[static_cast<std::size_t>(t)])
        terms.push_back(square(log_sum_exp(z_loss_logits(o, g.logits.row(t)), w.o.order)));
    const double n = std::max<double>(static_cast<double>(terms.size()), 1.0);
    g.z_loss = (sum(terms, DType::float32, w.o.order) / n).v;
  }
  if (o.training && c.aux_loss_coeff > 0.0) {
    g.aux = aux_loss(w, c, g.scores, g.ids, mask, find(tensors, "inputs/accumulated_expert_load"));
    g.aux_loss = g.aux.loss;
  }
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
    if (!g.aux.f.empty()) {
      Row aux;
      for (std::int64_t i = 0; i < e; ++i) {
        const Num scaled =
            Num{static_cast<float>(o.aux_loss_backward_scale), DType::float32} * c.aux_loss_coeff;
        const Num d_sum = scaled * g.aux.f[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)] /
                          g.aux.n[static_cast<std::size_t>(t)] *
                          (mask[static_cast<std::size_t>(t)] ? 1.0 : 0.0);
        aux.push_back(cast(w.o.fused ? d_sum : cast(d_sum, g.scores.stored), plain));
      }
      if (divides_scores(c)) {
        const NormaliseGradient back = normalise_gradient(c, g.plain.row(t), aux, order);
        for (std::size_t i = 0; i < aux.size(); ++i) {
          to_scores[i].push_back(back.direct[i]);
          to_scores[i].push_back(back.through_sum);
        }
      } else {
        for (std::size_t i = 0; i < aux.size(); ++i) to_scores[i].push_back(aux[i]);
      }
    }
    Row ds;
    for (const Row& terms : to_scores) ds.push_back(cast(accumulate(terms, plain, order), activated));
    const Row s = g.activated.row(t), z = mapped(c, g.logits.row(t), map_type);
    if (is_softmax(c)) {
      ds = softmax_gradient(s, ds, activated, order);
    } else {
      for (std::size_t i = 0; i < ds.size(); ++i) {
        const DType fine = wide(activated);
        const Num d_fine = cast(ds[i], fine), s_fine = cast(s[i], fine);
        if (c.score_func == ScoreFunc::sqrtsoftplus) {
          const Num grown = apply(cast(z[i], fine), [](auto v) { return std::exp(v); });
          const Num slope = z[i].v > 20.0 ? Num{1.0, fine} : grown / (grown + 1.0);
          ds[i] = d_fine / (s_fine * 2.0) * slope;
        } else {
          ds[i] = cast(d_fine * (1.0 - s_fine) * s_fine, activated);
        }
      }
    }
    Row from_z;
    if (o.training && c.z_loss_coeff > 0.0 && mask[static_cast<std::size_t>(t)]) {
      const Row logits = z_loss_logits(o, g.logits.row(t));
      const double n = static_cast<double>(std::ranges::count(mask, true));
      const Num scaled =
          Num{static_cast<float>(o.aux_loss_backward_scale), DType::float32} * c.z_loss_coeff / n;
      const Num d_lse = scaled * 2.0 * log_sum_exp(logits, order);
      for (const Num s : softmax(logits, logits[0].t, order)) from_z.push_back(cast(d_lse * s, z_type));
    }
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
