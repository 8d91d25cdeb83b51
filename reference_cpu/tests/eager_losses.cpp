// Losses of the eager port's gate: the auxiliary loss and its gradient by scores, the z-loss and its gradient
// by logits.
#include <algorithm>
#include <cmath>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {

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

std::vector<GateLoss> gate_losses(const Workspace& w, const MoEConfig& c, const Matrix& scores,
                                  const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                  const Tensor* accumulated) {
  std::vector<GateLoss> out;
  const auto add = [&](const char* name, double coefficient, const MoEConfig& of, const Tensor* before) {
    if (coefficient > 0.0) out.push_back({name, coefficient, aux_loss(w, of, scores, ids, mask, before)});
  };
  MoEConfig whole = c;
  whole.aux_loss_sequences = 1;
  add("outputs/batch_loss", c.batch_loss_coeff, whole, nullptr);
  add("outputs/aux_loss", c.aux_loss_coeff, c, c.aux_loss_accumulated ? accumulated : nullptr);
  add("outputs/global_loss", c.global_loss_coeff, whole, accumulated);
  return out;
}

std::vector<Row> gate_losses_gradients(const Workspace& w, const CallOptions& o, const GateResult& g,
                                       const std::vector<bool>& mask, std::int64_t t, bool apart) {
  const auto token = static_cast<std::size_t>(t);
  std::vector<Row> out;
  for (const auto& [name, coefficient, loss] : g.losses) {
    const Num scaled = Num{static_cast<float>(o.aux_loss_backward_scale), DType::float32} * coefficient;
    Row& row = out.emplace_back();
    for (const Num f : loss.f[token]) {
      const Num d = scaled * f / loss.n[token] * (mask[token] ? 1.0 : 0.0);
      row.push_back(w.o.fused ? d : cast(d, g.scores.stored));
    }
  }
  if (apart || out.size() == 1) return out;
  Row sum;
  for (std::size_t i = 0; i < out[0].size(); ++i) {
    Row terms;
    for (const Row& row : out) terms.push_back(row[i]);
    sum.push_back(accumulate(terms, terms[0].t, w.o.order));
  }
  return {sum};
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

double z_loss(const Workspace& w, const CallOptions& o, const Matrix& logits, const std::vector<bool>& mask) {
  Row terms;
  for (std::int64_t t = 0; t < logits.rows; ++t)
    if (mask[static_cast<std::size_t>(t)])
      terms.push_back(square(log_sum_exp(z_loss_logits(o, logits.row(t)), w.o.order)));
  const double n = std::max<double>(static_cast<double>(terms.size()), 1.0);
  return (sum(terms, DType::float32, w.o.order) / n).v;
}

Row z_loss_gradient(const Workspace& w, const MoEConfig& c, const CallOptions& o, const Matrix& logits,
                    const std::vector<bool>& mask, std::int64_t t) {
  const Row z = z_loss_logits(o, logits.row(t));
  const double n = static_cast<double>(std::ranges::count(mask, true));
  const Num scaled = Num{static_cast<float>(o.aux_loss_backward_scale), DType::float32} * c.z_loss_coeff / n;
  const Num d_lse = scaled * 2.0 * log_sum_exp(z, w.o.order);
  Row out;
  for (const Num s : softmax(z, z[0].t, w.o.order)) out.push_back(cast(d_lse * s, logits.read));
  return out;
}

}  // namespace moeref::eager
