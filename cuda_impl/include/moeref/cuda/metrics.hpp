// Load-balance metrics of expert loads (SPEC.md 9), in fp64. Asynchronous, capturable, the same bits on every
// run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moeref::cuda {

/// Places in MetricsOutput::aggregates.
enum class Aggregate {
  cv_mean,
  cv_median,
  cv_min,
  cv_max,
  expert_utilization_p25,
  expert_utilization_median,
  expert_utilization_p75,
  expert_utilization_min,
  expert_utilization_max,
  dead_expert_frac_mean,
  expert_diversity_mean,
  expert_diversity_min,
};
inline constexpr int kAggregates = 12;

struct MetricsOutput {
  double* cv;           // [L] std (n - 1) / mean, 0 if the mean is 0 or E is 1
  double* utilization;  // [L, E] load / (sum / E), all zero if the sum is
  double* dead;         // [L] share of experts with utilisation 0
  double* diversity;    // [L] exp(entropy of u / sum u) / E, 0 if all are zero
  double* aggregates;   // [kAggregates] over the layers; not written for no layers
};

/// load [L, E], counts of 0 or more. Throws ArgumentError for a negative number of layers or none of experts.
void load_balance_metrics(std::int64_t layers, int experts, const std::int64_t* load,
                          const MetricsOutput& out, cudaStream_t stream);

}  // namespace moeref::cuda
