#include "reference_cpu/components/bias_update.hpp"

#include <numeric>
#include <utility>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

BiasUpdate::BiasUpdate(const MoEConfig& config, std::vector<Real> correction)
    : factor_(config.gate_bias_update_factor),
      ema_(config.bias_update_ema),
      centred_(config.centred_bias_update),
      rule_(config.bias_update_rule),
      master_(std::move(correction)) {
  if (!config.train_gate)
    throw InputError("config field 'train_gate' is false: a bias update needs a trained gate");
  if (factor_ <= 0.0)
    throw InputError("config field 'gate_bias_update_factor' is 0: want a step above 0 to update by");
}

void BiasUpdate::accumulate(const std::vector<std::int64_t>& load) {
  if (!training_) return;
  if (!load_) load_.emplace(load.size());
  for (std::size_t i = 0; i < load.size(); ++i) (*load_)[i] += load[i];
}

void BiasUpdate::update() {
  if (!training_)
    throw InputError("the bias update was called outside training: want call option 'training' = true");
  if (!load_) throw InputError("the bias update was called without a forward since the last update");
  if (rule_ == BiasUpdateRule::quantile)
    update_by_quantiles();
  else
    update_by_load(*load_);
  load_.reset();
  quantiles_.clear();
}

void BiasUpdate::update_by_quantiles() {
  if (quantiles_.empty()) return;
  const auto parts = static_cast<double>(quantiles_.size()), experts = static_cast<double>(master_.size());
  Sum all(kFloat);
  for (std::size_t i = 0; i < master_.size(); ++i) {
    Sum sum(kFloat);
    for (const std::vector<Real>& of_part : quantiles_) sum += of_part[i];
    // Micro-batches are averaged first, then ranks: two divisions.
    const Real mean = parts == 1.0 ? sum.total() : (sum.total() / parts).rounded();
    const Real moved = -(mean * (1.0 - ema_));
    master_[i] = ema_ == 0.0 ? moved : master_[i] * ema_ + moved;
    all += master_[i];
  }
  const Real mean = all.total() / experts;
  for (Real& c : master_) c = c - mean;
}

void BiasUpdate::update_by_load(const std::vector<std::int64_t>& load) {
  const std::int64_t total = std::accumulate(load.begin(), load.end(), std::int64_t{0});
  const auto experts = static_cast<std::int64_t>(load.size());
  std::vector<Real> steps;
  Sum sum(kFloat);
  for (std::size_t i = 0; i < load.size(); ++i) {
    // sign(total / E - load), in integers, so that no rounding decides it.
    const std::int64_t difference = total - load[i] * experts;
    const Real step = constant(factor_, master_[i].held);
    steps.push_back(difference > 0 ? step : difference < 0 ? -step : known(0.0, step.held));
    sum += steps.back();
  }
  const Real mean = centred_ ? sum.total() / static_cast<double>(experts) : known(0.0, kFloat);
  for (std::size_t i = 0; i < load.size(); ++i) master_[i] = master_[i] + (steps[i] - mean);
}

}  // namespace moeref
