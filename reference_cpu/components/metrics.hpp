// Load-balance metrics of expert loads (SPEC 9).
#pragma once

#include <map>
#include <string>
#include <vector>

namespace moeref {

struct LayerMetrics {
  double cv = 0.0;                  ///< std (n - 1) / mean, 0 if the mean is 0
  std::vector<double> utilization;  ///< load / (sum / E); all zero if the sum is zero
  double dead_expert_frac = 0.0;    ///< share of experts with utilisation 0
  double expert_diversity = 0.0;    ///< exp(entropy of u / sum u) / E, 0 if all are zero
};

/// load [E], at least one expert.
LayerMetrics layer_metrics(const std::vector<double>& load);

/// Over layers: "cv_mean", "cv_median", "cv_min", "cv_max", "expert_utilization_p25" (and median, p75, min,
/// max), "dead_expert_frac_mean", "expert_diversity_mean", "expert_diversity_min". Empty for no layers.
std::map<std::string, double> aggregate_metrics(const std::vector<LayerMetrics>& layers);

}  // namespace moeref
