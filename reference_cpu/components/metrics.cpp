#include "reference_cpu/components/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference_cpu/arithmetic/exact_math.hpp"

namespace moeref {
namespace {

double mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

double median(const std::vector<double>& sorted) {
  const std::size_t n = sorted.size();
  return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0;
}

}  // namespace

LayerMetrics layer_metrics(const std::vector<double>& load) {
  const auto experts = static_cast<double>(load.size());
  const double total = std::accumulate(load.begin(), load.end(), 0.0), average = total / experts;
  LayerMetrics out;
  double squares = 0.0;
  for (const double l : load) squares += (l - average) * (l - average);
  // The deviation of a single expert is 0 here; the documented system computes 0 / 0, which is NaN.
  out.cv = average > 0.0 && load.size() > 1 ? std::sqrt(squares / (experts - 1.0)) / average : 0.0;
  double entropy = 0.0;
  for (const double l : load) {
    out.utilization.push_back(total > 0.0 ? l / average : 0.0);
    if (l > 0.0) entropy -= l / total * exact::log(l / total);
  }
  out.dead_expert_frac = static_cast<double>(std::ranges::count(load, 0.0)) / experts;
  out.expert_diversity = total > 0.0 ? exact::exp(entropy) / experts : 0.0;
  return out;
}

std::map<std::string, double> aggregate_metrics(const std::vector<LayerMetrics>& layers) {
  std::map<std::string, double> out;
  if (layers.empty()) return out;
  std::vector<double> cv, utilization, dead, diversity;
  for (const LayerMetrics& layer : layers) {
    cv.push_back(layer.cv);
    dead.push_back(layer.dead_expert_frac);
    diversity.push_back(layer.expert_diversity);
    utilization.insert(utilization.end(), layer.utilization.begin(), layer.utilization.end());
  }
  out["cv_mean"] = mean(cv);
  out["dead_expert_frac_mean"] = mean(dead);
  out["expert_diversity_mean"] = mean(diversity);
  out["expert_diversity_min"] = *std::ranges::min_element(diversity);
  std::ranges::sort(cv);
  std::ranges::sort(utilization);
  out["cv_median"] = median(cv);
  out["cv_min"] = cv.front();
  out["cv_max"] = cv.back();
  const std::size_t n = utilization.size();
  out["expert_utilization_p25"] = n >= 4 ? utilization[n / 4] : utilization.front();
  out["expert_utilization_median"] = median(utilization);
  out["expert_utilization_p75"] = n >= 4 ? utilization[3 * n / 4] : utilization.back();
  out["expert_utilization_min"] = utilization.front();
  out["expert_utilization_max"] = utilization.back();
  return out;
}

}  // namespace moeref
