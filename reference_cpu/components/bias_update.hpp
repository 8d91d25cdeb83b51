// The correction bias and its update (SPEC 3.5).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

/// Accumulates the load of every forward in training and moves the bias by the sign of (mean load - load), or
/// accumulates quantiles of its scores and sets the bias by them (SPEC 10).
class BiasUpdate {
 public:
  /// c [E], the bias that the master copy starts from. Throws InputError without train_gate or with an update
  /// factor of 0.
  BiasUpdate(const MoEConfig& config, std::vector<Real> correction);

  void set_training(bool training) { training_ = training; }

  /// Adds the load [E] of one forward, of this rank's tokens; does nothing outside training.
  void accumulate(const std::vector<std::int64_t>& load);

  /// Adds the score_quantiles [E] of one forward of one rank, under the rule quantile.
  void accumulate_quantiles(std::vector<Real> quantiles) { quantiles_.push_back(std::move(quantiles)); }

  /// The load since the last update, summed over these ranks; none before the first forward.
  const std::optional<std::vector<std::int64_t>>& cumulative_load() const { return load_; }

  /// master += factor * sign(mean - load), less the mean of these steps where centred_bias_update says so
  /// (SPEC 10), c = master, the cumulative load is cleared. By quantiles: c = ema c - (1 - ema) (mean of
  /// those accumulated), less its mean over E; without any it stays. Throws InputError outside training and
  /// without a forward since the last update.
  void update();

  const std::vector<Real>& correction() const { return master_; }

 private:
  void update_by_load(const std::vector<std::int64_t>& load);
  void update_by_quantiles();

  double factor_, ema_;
  bool centred_;
  BiasUpdateRule rule_;
  bool training_ = true;
  std::vector<Real> master_;
  std::optional<std::vector<std::int64_t>> load_;
  std::vector<std::vector<Real>> quantiles_;
};

}  // namespace moeref
