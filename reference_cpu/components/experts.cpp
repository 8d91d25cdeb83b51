#include "reference_cpu/components/experts.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/expert_rows.hpp"
#include "reference_cpu/quantization/quantize_activations.hpp"
#include "reference_cpu/quantization/truncated_sums.hpp"

namespace moeref {
namespace {

const std::string kUpStage = "stages/up_projection", kActivationStage = "stages/activation",
                  kDownStage = "stages/down_projection";

}  // namespace

ExpertsParams find_experts(const MoEConfig& c, const NamedTensors& tensors, const std::string& prefix) {
  const auto matrices = [&](const char* name, const ExpertsShape& shape) -> ExpertMatrices {
    if (c.weight_format == WeightFormat::none) return {&require(tensors, prefix + name), {}};
    return {nullptr, find_quantized(c.weight_format, shape, tensors, prefix + name)};
  };
  return {matrices("gate_and_up_projs", c.up_shape()), matrices("down_projs", c.down_shape()),
          c.expert_bias ? &require(tensors, prefix + "gate_up_proj_bias") : nullptr,
          c.expert_bias ? &require(tensors, prefix + "down_proj_bias") : nullptr};
}

Bounded experts_tokens(const MoEConfig& c, Bounded x) {
  if (!c.expert_compute_dtype) return x;
  return c.router_weight_on_input ? cast(std::move(x), *c.expert_compute_dtype)
                                  : rounded(std::move(x), *c.expert_compute_dtype);
}

ExpertsForward experts_forward(const MoEConfig& c, const CallOptions& options, const ExpertsParams& p,
                               const Bounded& x, const Routing& routing, ExpertRange range,
                               const ForcedStages& forced) {
  const std::int64_t k = routing.weights.cols, slots = routing.weights.rows * k, width = c.moe_inter_dim;
  const Activation& act = activation(c.expert_activation);
  const ActivationParams act_params = activation_params(c);
  const bool weighs_inside = !c.apply_router_weight_after_down && !c.router_weight_on_input;
  // Quantised operands are exact in float32, in which their products are added up whatever x's type is.
  const DType products = c.quantises_activations() ? DType::float32 : x.dtype;
  const Sums sums =
      c.quantises_activations() ? Sums{DType::float32} : sums_of(x.dtype, options.float32_products);
  ExpertsForward f{Bounded(slots, c.up_dim(), x.dtype),
                   Bounded(slots, width, x.dtype),
                   Bounded(slots, c.expert_dim(), x.dtype),
                   {}};
  const auto product = [&](Bounded rows, const Bounded& weights, const ExpertMatrices& of, std::int64_t e) {
    if (facts(c.accumulator).promotion == 0)
      return multiply(quantize_activations(c.activation_format, std::move(rows)), false, weights, false, sums,
                      x.dtype);
    CodePowers powers;
    std::vector<double> of_weights(weights.count());
    rows = quantize_activations(c.activation_format, std::move(rows), &powers);
    code_powers(of.quantized, e, of_weights);
    return multiply(rows, false, weights, false, sums, x.dtype,
                    lost_by_truncation(facts(c.accumulator), rows, powers, weights, of_weights));
  };
  const auto by_expert = slots_by_expert(routing, range);
  const Shape up_shape{x.rows, k, c.up_dim()}, act_shape{x.rows, k, width},
      down_shape{x.rows, k, c.expert_dim()};
  const auto given_up = forced.given(kUpStage, f.up, up_shape);
  const auto given_act = forced.given(kActivationStage, f.activation, act_shape);

  parallel_for(range.count, [&](std::int64_t local) {
    const auto& mine = by_expert[static_cast<std::size_t>(local)];
    if (mine.empty()) return;
    if (range.first + local >= c.experts_with_weights()) {
      scatter_rows(c.apply_router_weight_after_down ? gather_rows(x, tokens_of(mine, k))
                                                    : weighted_rows(x, routing, mine),
                   mine, f.down);
      return;
    }
    const Expert& expert = load_expert(c, p, range.first + local, products, x.dtype);

    Bounded h =
        product(expert_input(c, x, routing, mine), expert.up, p.gate_and_up_projs, range.first + local);
    if (c.expert_bias) add_row(h, expert.up_bias);
    scatter_rows(h, mine, f.up);
    if (given_up) h = gather_rows(*given_up, mine);

    Bounded a(h.rows, width, x.dtype);
    for (std::int64_t row = 0; row < h.rows; ++row) {
      const Real weight = inner_weight(c, routing, mine[static_cast<std::size_t>(row)]);
      for (std::int64_t i = 0; i < width; ++i) {
        const Real value = activate(act, act_params, h, row, i, width);
        a.set(row, i, weighs_inside ? value * weight : value);
      }
    }
    scatter_rows(a, mine, f.activation);
    if (given_act) a = gather_rows(*given_act, mine);

    Bounded o = product(std::move(a), expert.down, p.down_projs, range.first + local);
    if (c.expert_bias)
      for (std::int64_t row = 0; row < o.rows; ++row) {
        const Real weight = inner_weight(c, routing, mine[static_cast<std::size_t>(row)]);
        for (std::int64_t d = 0; d < o.cols; ++d)
          o.set(row, d,
                o.at(row, d) + (weighs_inside ? expert.down_bias.at(d) * weight : expert.down_bias.at(d)));
      }
    scatter_rows(o, mine, f.down);
  });
  forced.settle(kUpStage, f.up, up_shape);
  forced.settle(kActivationStage, f.activation, act_shape);
  forced.settle(kDownStage, f.down, down_shape);
  f.y = combine(c, f, routing, range, x.dtype);
  return f;
}

Bounded combine(const MoEConfig& c, const ExpertsForward& f, const Routing& routing, ExpertRange range,
                DType stored) {
  Bounded y(routing.weights.rows, f.down.cols, stored);
  parallel_for(y.rows, [&](std::int64_t t) {
    const LiveSlots slots = live_slots(c, routing, range, t);
    for (std::int64_t d = 0; d < y.cols; ++d) {
      Sum sum(kFloat);  // the documented system adds the slots of a token in fp32 in layers of every type
      for (const std::int64_t slot : slots.here) {
        Real o = store(f.down.at(slot, d), kFloat);
        if (c.apply_router_weight_after_down) {
          o = o * store(routing.weights.at(slot), kFloat);
          // An honest implementation stores the row in x's type once, before its weight or after it: where
          // the row is exact (only the bias is not 0), the product with the weight rounds.
          o.error = std::max(o.error, precision(f.down.dtype).unit * std::abs(o.value));
        }
        sum += o;
      }
      y.set(t, d, sum.total(slots.elsewhere));
    }
  });
  return y;
}

}  // namespace moeref
