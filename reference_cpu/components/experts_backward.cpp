#include <algorithm>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/expert_rows.hpp"

namespace moeref {
namespace {

/// Null for a parameter that is not there, or not as numbers.
BoundedTensor* gradient(std::map<std::string, BoundedTensor>& grads, const std::string& name,
                        const Tensor* param) {
  if (!param) return nullptr;
  BoundedTensor& out = grads["grads/" + name];
  if (out.value.empty()) {
    out.dtype = param->dtype();
    out.shape = param->shape();
    resize_in_parallel(out.value, static_cast<std::size_t>(param->size()));
    resize_in_parallel(out.bound, out.value.size());
  }
  return &out;
}

void write_row(const Bounded& row, BoundedTensor& out, std::int64_t first) {
  for (std::int64_t i = 0; i < row.cols; ++i) {
    const Real a = store(row.at(i), precision(out.dtype));
    out.value[static_cast<std::size_t>(first + i)] = a.value;
    out.bound[static_cast<std::size_t>(first + i)] = round_up(a.error);
  }
}

/// The cast of a gradient from the type of the activations to that of its parameter, where it rounds.
void cast_block(BoundedTensor& out, DType from, std::int64_t first, std::int64_t count) {
  const Precision held = precision(from), to = precision(out.dtype);
  if (to.unit <= held.unit && to.largest >= held.largest) return;
  for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(first + count); ++i)
    out.bound[i] = round_up(store({out.value[i], out.bound[i], held}, to).error);
}

/// Where each rank's rows begin among those of an expert, which are in the order of their tokens.
std::vector<std::int64_t> rows_of_ranks(const std::vector<std::int64_t>& tokens, RankRows ranks) {
  std::vector<std::int64_t> out;
  for (const std::int64_t first : ranks)
    out.push_back(std::lower_bound(tokens.begin(), tokens.end(), first) - tokens.begin());
  return out;
}

/// bound_rank_parts of a^T b, whose place in the whole parameter begins at element `at`.
void bound_rank_parts_of(BoundedTensor& param, std::int64_t at, const Bounded& a, const Bounded& b,
                         const Sums& sums, RankRows ranks) {
  if (ranks.size() <= 2) return;
  Bounded added(a.cols, b.cols, b.dtype);
  bound_rank_parts(added, sums.accumulate, ranks, [&](std::int64_t first, std::int64_t last) {
    return multiply(rows_of(a, first, last), true, rows_of(b, first, last), false, sums, b.dtype);
  });
  for (std::size_t i = 0; i < added.count(); ++i) {
    float& bound = param.bound[static_cast<std::size_t>(at) + i];
    bound = round_up(bound + added.error[i]);
  }
}

/// a^T b, the gradient of one expert's matrix, in its place in the whole parameter.
void weight_gradient_into(BoundedTensor& param, std::int64_t expert, const Bounded& a, const Bounded& b,
                          const Sums& sums, RankRows ranks) {
  const std::int64_t count = a.cols * b.cols, at = expert * count;
  multiply_into(a, true, b, false, sums, b.dtype, param.value.data() + at, param.bound.data() + at);
  bound_rank_parts_of(param, at, a, b, sums, ranks);
  cast_block(param, b.dtype, at, count);
}

/// That of a weight after the down projection: the cotangent of y times what the expert gave.
Sum output_weight_gradient(const ExpertsForward& f, std::int64_t slot, const Bounded& dy, std::int64_t row) {
  Sum out(kFloat);
  for (std::int64_t d = 0; d < dy.cols; ++d)
    out += widen(dy.at(row, d), kFloat) * store(f.down.at(slot, d), kFloat);
  return out;
}

}  // namespace

ExpertsBackward experts_backward(const MoEConfig& c, const CallOptions& options, const ExpertsParams& p,
                                 const Bounded& x, const Routing& routing, ExpertRange range,
                                 const ExpertsForward& f, const Bounded& dy, const std::string& prefix,
                                 std::map<std::string, BoundedTensor>& grads, std::int64_t others,
                                 RankRows ranks) {
  const std::int64_t k = routing.weights.cols, slots = routing.weights.rows * k, width = c.moe_inter_dim;
  const std::int64_t dim = c.expert_dim(), up_dim = c.up_dim();
  const Activation& act = activation(c.expert_activation);
  const ActivationParams act_params = activation_params(c);
  const bool weight_after = c.apply_router_weight_after_down, on_input = c.router_weight_on_input,
             weighs_inside = !weight_after && !on_input;
  const Sums sums = sums_of(x.dtype, options.float32_products);
  const auto by_expert = slots_by_expert(routing, range);

  Bounded dx_slots(slots, dim, x.dtype);
  ExpertsBackward out{Bounded(x.rows, dim, x.dtype), Bounded(routing.weights.rows, k, routing.weights.dtype)};
  BoundedTensor* d_up_param = gradient(grads, prefix + "gate_and_up_projs", p.gate_and_up_projs.numbers);
  BoundedTensor* d_down_param = gradient(grads, prefix + "down_projs", p.down_projs.numbers);
  BoundedTensor* d_up_bias = gradient(grads, prefix + "gate_up_proj_bias", p.gate_up_proj_bias);
  BoundedTensor* d_down_bias = gradient(grads, prefix + "down_proj_bias", p.down_proj_bias);

  parallel_for(range.count, [&](std::int64_t local) {
    const auto& mine = by_expert[static_cast<std::size_t>(local)];
    if (mine.empty()) return;  // its gradients stay exactly zero
    const std::int64_t e = range.first + local;
    const std::vector<std::int64_t> tokens = tokens_of(mine, k);
    const auto rows = static_cast<std::int64_t>(mine.size());

    // The cotangent of o: dy, rounded by the fp32 sum of the slots, and times the weight where the weight
    // comes after down.
    Bounded d_out = gather_rows(dy, tokens);
    if (x.dtype == DType::float64) d_out = cast(std::move(d_out), DType::float32);
    const Bounded d_sum = d_out;
    d_out.dtype = x.dtype;
    if (d_out.exact()) d_out.error.resize(d_out.count());
    if (weight_after)
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t d = 0; d < dim; ++d)
          d_out.set(row, d,
                    widen(d_sum.at(row, d), kFloat) *
                        store(routing.weights.at(mine[static_cast<std::size_t>(row)]), kFloat));

    if (e >= c.experts_with_weights()) {
      for (std::int64_t row = 0; weight_after && row < rows; ++row) {
        const std::int64_t slot = mine[static_cast<std::size_t>(row)];
        out.weights.set(slot, store(output_weight_gradient(f, slot, d_sum, row).total(),
                                    seen_weight(routing, slot).held));
      }
      if (!weight_after) weighted_rows_backward(x, routing, mine, d_out, out.weights);
      scatter_rows(d_out, mine, dx_slots);
      return;
    }

    const Expert& expert = load_expert(c, p, e, x.dtype, x.dtype);
    const Bounded h = gather_rows(f.up, mine), a = gather_rows(f.activation, mine);
    const std::vector<std::int64_t> rank_rows = rows_of_ranks(tokens, ranks);
    const Bounded d_act = multiply(d_out, false, expert.down, true, sums, x.dtype);
    if (d_down_param) weight_gradient_into(*d_down_param, e, a, d_out, sums, rank_rows);

    // The gradient of the routing weight, and back through the activation.
    Bounded dh(rows, up_dim, x.dtype);
    Bounded weighted_d_out = d_out;  // from which the down bias gets its gradient
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t slot = mine[static_cast<std::size_t>(row)];
      const Real weight = inner_weight(c, routing, slot);
      Sum d_weight(kFloat), through_bias(kFloat);
      if (weight_after) {
        d_weight += output_weight_gradient(f, slot, d_sum, row);
      } else if (weighs_inside) {
        for (std::int64_t i = 0; i < width; ++i)
          d_weight += widen(activate(act, act_params, h, row, i, width), weight.held) *
                      store(d_act.at(row, i), weight.held);
        for (std::int64_t d = 0; c.expert_bias && d < dim; ++d) {
          through_bias += widen(expert.down_bias.at(d), weight.held) * d_out.at(row, d);
          weighted_d_out.set(row, d, d_out.at(row, d) * weight);
        }
      }
      // Two gradients are added in the routing weight, each in the weight's type.
      out.weights.set(slot, store(d_weight.total(), weight.held) + store(through_bias.total(), weight.held));

      for (std::int64_t i = 0; i < width; ++i) {
        const Real gate = act.gated() ? h.at(row, act.gate_column(i, width)) : Real{};
        const Real d = weighs_inside ? d_act.at(row, i) * weight : d_act.at(row, i);
        const auto [d_gate, d_up] = act.gradient(gate, h.at(row, act.up_column(i, width)), d, act_params);
        if (act.gated()) dh.set(row, act.gate_column(i, width), d_gate);
        dh.set(row, act.up_column(i, width), d_up);
      }
    }
    const Bounded in = expert_input(c, x, routing, mine);
    if (d_up_param) weight_gradient_into(*d_up_param, e, in, dh, sums, rank_rows);
    if (c.expert_bias) {
      write_row(bias_gradient(dh, x.dtype, x.dtype, rank_rows), *d_up_bias, e * up_dim);
      write_row(bias_gradient(weighted_d_out, x.dtype, x.dtype, rank_rows), *d_down_bias, e * dim);
    }
    Bounded d_in = multiply(dh, false, expert.up, true, sums, x.dtype);
    if (on_input) weighted_rows_backward(x, routing, mine, d_in, out.weights);
    scatter_rows(d_in, mine, dx_slots);
  });

  // The gradient of a gather: the rows of a token are added in x's own type.
  parallel_for(x.rows, [&](std::int64_t t) {
    const LiveSlots slots = live_slots(c, routing, range, t);
    for (std::int64_t d = 0; d < dim; ++d) {
      Sum sum(precision(x.dtype));
      for (const std::int64_t slot : slots.here) sum += dx_slots.at(slot, d);
      out.x.set(t, d, sum.total(slots.elsewhere + others));
    }
  });
  return out;
}

}  // namespace moeref
