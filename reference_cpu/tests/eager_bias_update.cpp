// How the eager port moves the correction bias: by the sign of mean load - load, or by quantiles.
#include <algorithm>
#include <cmath>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {
namespace {

/// The number of rank `rank`, from 0, in descending order.
Num ranked(std::vector<Num> numbers, std::int64_t rank) {
  std::ranges::stable_sort(numbers,
                           [](Num a, Num b) { return std::isnan(a.v) ? !std::isnan(b.v) : a.v > b.v; });
  return numbers[static_cast<std::size_t>(rank)];
}

/// finalize_model_grads: the mean of the quantiles, blended with the bias and centred.
void blend(const MoEConfig& c, const std::vector<std::vector<Num>>& quantiles, Order order,
           std::vector<Num>& correction) {
  if (quantiles.empty()) return;
  std::vector<Num> beta;
  for (std::size_t i = 0; i < correction.size(); ++i) {
    std::vector<Num> parts;
    for (const auto& of_part : quantiles) parts.push_back(cast(of_part[i], DType::float32));
    const Num mean = sum(parts, DType::float32, order) / static_cast<double>(parts.size());
    const Num old = Num{-correction[i].v, DType::float32};
    beta.push_back(old * c.bias_update_ema + mean * (1.0 - c.bias_update_ema));
  }
  const Num mean = sum(beta, DType::float32, order) / static_cast<double>(beta.size());
  for (std::size_t i = 0; i < beta.size(); ++i) correction[i] = Num{-(beta[i] - mean).v, DType::float32};
}

void step_by_load(const MoEConfig& c, const std::vector<std::int64_t>& load, Order order,
                  std::vector<Num>& correction) {
  std::int64_t total = 0;
  for (const std::int64_t l : load) total += l;
  const float mean = static_cast<float>(total) / static_cast<float>(load.size());
  std::vector<Num> steps;
  for (const std::int64_t l : load) {
    const float difference = mean - static_cast<float>(l);
    const double sign = difference > 0 ? 1.0 : difference < 0 ? -1.0 : 0.0;
    steps.push_back(Num{sign, DType::float32} * c.gate_bias_update_factor);
  }
  const Num mean_step = sum(steps, DType::float32, order) / static_cast<double>(steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i)
    correction[i] = correction[i] + (c.centred_bias_update ? steps[i] - mean_step : steps[i]);
}

}  // namespace

std::vector<Num> column_quantiles(const MoEConfig& c, const GateResult& g, const std::vector<Num>& correction,
                                  const std::vector<bool>& mask, std::int64_t first, std::int64_t last) {
  std::vector<std::vector<Num>> columns(correction.size());
  for (std::int64_t t = first; t < last; ++t) {
    if (!mask[static_cast<std::size_t>(t)]) continue;
    std::vector<Num> scores, biased;
    for (std::size_t i = 0; i < correction.size(); ++i) {
      const Num s = g.unbiased[static_cast<std::size_t>(t)][i];
      scores.push_back(cast(s, common(s.t, DType::float32)));
      biased.push_back(scores[i] + correction[i]);
    }
    const Num alpha = ranked(biased, c.n_activated_experts);
    for (std::size_t i = 0; i < scores.size(); ++i) columns[i].push_back(scores[i] - alpha);
  }
  std::vector<Num> out;
  const auto tokens = static_cast<std::int64_t>(columns[0].size());
  for (const auto& column : columns)
    if (tokens > 0) out.push_back(ranked(column, tokens * c.n_activated_experts / c.n_routed_experts));
  return out;
}

void update_correction(const MoEConfig& c, const std::vector<std::int64_t>& load,
                       const std::vector<std::vector<Num>>& quantiles, Order order,
                       std::vector<Num>& correction) {
  if (c.bias_update_rule == BiasUpdateRule::quantile)
    blend(c, quantiles, order, correction);
  else
    step_by_load(c, load, order, correction);
}

}  // namespace moeref::eager
