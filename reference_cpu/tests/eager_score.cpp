// Scores of the eager port: logits as they are scored, the score functions, what divides scores and routing
// weights, and the gradients of each.
#include <cmath>
#include <limits>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {
namespace {

bool is_softmax(const MoEConfig& c) {
  return c.score_func == ScoreFunc::softmax || c.score_func == ScoreFunc::softmax_with_bias;
}

bool takes_maximum(const MoEConfig& c) { return c.norm_denominator == NormDenominator::max_of_sum_and_eps; }

}  // namespace

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

Row scored(const MoEConfig& c, const Row& z, DType softmax_type, DType activated, Order order) {
  if (is_softmax(c)) return softmax(z, softmax_type, order);
  Row s;
  for (const Num a : z)
    s.push_back(c.score_func == ScoreFunc::sqrtsoftplus ? sqrt(softplus(cast(a, activated)))
                                                        : sigmoid(cast(a, activated)));
  return s;
}

Row score_gradient(const MoEConfig& c, const Row& s, const Row& z, Row ds, DType activated, Order order) {
  if (is_softmax(c)) return softmax_gradient(s, ds, activated, order);
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
  return ds;
}

Num denominator(const MoEConfig& c, const Row& row, Order order) {
  const Num all = sum(row, row[0].t, order);
  if (!takes_maximum(c)) return all + c.norm_eps;
  const double least = round_as(all.t, c.norm_eps);
  return all.v < least ? Num{least, all.t} : all;
}

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

}  // namespace moeref::eager
