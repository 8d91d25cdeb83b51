#include "reference_cpu/components/expert_rows.hpp"

#include <utility>

namespace moeref {
namespace {

/// Cast to the type in which the expert works, or rounded to it where the config says so.
void load_numbers(const MoEConfig& c, Bounded& out, const Tensor& from, std::int64_t first, std::int64_t rows,
                  std::int64_t cols, DType compute) {
  load_into(out, from, first, rows, cols, c.expert_compute_dtype ? from.dtype() : compute);
  if (c.expert_compute_dtype) out = rounded(std::move(out), compute);
}

void load_matrix(const MoEConfig& c, Bounded& out, const ExpertMatrices& m, const ExpertsShape& s,
                 std::int64_t e, DType compute) {
  if (m.numbers)
    load_numbers(c, out, *m.numbers, e * s.k * s.n, s.k, s.n, compute);
  else
    load_into(out, m.quantized, e, compute);
}

}  // namespace

std::vector<std::vector<std::int64_t>> slots_by_expert(const Routing& r, ExpertRange range) {
  std::vector<std::vector<std::int64_t>> out(static_cast<std::size_t>(range.count));
  const std::int64_t k = r.weights.cols;
  for (std::int64_t slot = 0; slot < r.weights.rows * k; ++slot) {
    const std::int64_t local = r.indices[static_cast<std::size_t>(slot)] - range.first;
    if (r.mask[static_cast<std::size_t>(slot / k)] && local >= 0 && local < range.count)
      out[static_cast<std::size_t>(local)].push_back(slot);
  }
  return out;
}

LiveSlots live_slots(const MoEConfig& c, const Routing& r, ExpertRange range, std::int64_t t) {
  LiveSlots out;
  if (!r.mask[static_cast<std::size_t>(t)]) return out;
  const std::int64_t k = r.weights.cols;
  for (std::int64_t slot = t * k; slot < (t + 1) * k; ++slot) {
    const std::int64_t id = r.indices[static_cast<std::size_t>(slot)];
    if (id >= range.first && id < range.first + range.count)
      out.here.push_back(slot);
    else if (id != c.null_id())
      ++out.elsewhere;
  }
  return out;
}

Real seen_weight(const Routing& r, std::int64_t slot) {
  const Real weight = r.weights.at(slot);
  return weight.held.unit < kFloat.unit ? store(weight, kFloat) : weight;
}

Real inner_weight(const MoEConfig& c, const Routing& r, std::int64_t slot) {
  const Real weight = seen_weight(r, slot);
  return c.apply_router_weight_after_down || c.router_weight_on_input ? known(1.0, weight.held) : weight;
}

std::vector<std::int64_t> tokens_of(const std::vector<std::int64_t>& slots, std::int64_t k) {
  std::vector<std::int64_t> out;
  for (const std::int64_t slot : slots) out.push_back(slot / k);
  return out;
}

Bounded weighted_rows(const Bounded& x, const Routing& r, const std::vector<std::int64_t>& slots) {
  Bounded rows = gather_rows(x, tokens_of(slots, r.weights.cols));
  if (rows.exact()) rows.error.resize(rows.count());
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const Real weight = seen_weight(r, slots[static_cast<std::size_t>(row)]);
    for (std::int64_t d = 0; d < rows.cols; ++d) rows.set(row, d, rows.at(row, d) * weight);
  }
  return rows;
}

void weighted_rows_backward(const Bounded& x, const Routing& r, const std::vector<std::int64_t>& slots,
                            Bounded& rows, Bounded& d_weights) {
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const std::int64_t slot = slots[static_cast<std::size_t>(row)], token = slot / r.weights.cols;
    const Real weight = seen_weight(r, slot);
    Sum d_weight(kFloat);
    for (std::int64_t d = 0; d < rows.cols; ++d) {
      d_weight += widen(x.at(token, d), weight.held) * store(rows.at(row, d), weight.held);
      rows.set(row, d, rows.at(row, d) * weight);
    }
    d_weights.set(slot, store(d_weight.total(), weight.held));
  }
}

Bounded expert_input(const MoEConfig& c, const Bounded& x, const Routing& r,
                     const std::vector<std::int64_t>& slots) {
  return c.router_weight_on_input ? weighted_rows(x, r, slots)
                                  : gather_rows(x, tokens_of(slots, r.weights.cols));
}

void scatter_rows(const Bounded& rows, const std::vector<std::int64_t>& to, Bounded& into) {
  for (std::size_t r = 0; r < to.size(); ++r)
    for (std::int64_t c = 0; c < rows.cols; ++c) into.set(to[r], c, rows.at(static_cast<std::int64_t>(r), c));
}

const Expert& load_expert(const MoEConfig& c, const ExpertsParams& p, std::int64_t e, DType products,
                          DType activations) {
  thread_local Expert expert;
  load_matrix(c, expert.up, p.gate_and_up_projs, c.up_shape(), e, products);
  load_matrix(c, expert.down, p.down_projs, c.down_shape(), e, products);
  if (!p.gate_up_proj_bias) return expert;
  load_numbers(c, expert.up_bias, *p.gate_up_proj_bias, e * c.up_dim(), 1, c.up_dim(), activations);
  load_numbers(c, expert.down_bias, *p.down_proj_bias, e * c.expert_dim(), 1, c.expert_dim(), activations);
  return expert;
}

Real activate(const Activation& act, const ActivationParams& params, const Bounded& h, std::int64_t row,
              std::int64_t i, std::int64_t width) {
  return act.value(act.gated() ? h.at(row, act.gate_column(i, width)) : Real{},
                   h.at(row, act.up_column(i, width)), params);
}

}  // namespace moeref
