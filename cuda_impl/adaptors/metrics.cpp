#include "moeref/cuda/metrics.hpp"

#include <array>

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"
#include "moeref/signature.hpp"

namespace moeref::cuda {
namespace {

/// In the order of Aggregate.
constexpr std::array<const char*, kAggregates> kNames{"cv_mean",
                                                      "cv_median",
                                                      "cv_min",
                                                      "cv_max",
                                                      "expert_utilization_p25",
                                                      "expert_utilization_median",
                                                      "expert_utilization_p75",
                                                      "expert_utilization_min",
                                                      "expert_utilization_max",
                                                      "dead_expert_frac_mean",
                                                      "expert_diversity_mean",
                                                      "expert_diversity_min"};

}  // namespace

std::optional<std::string> unsupported_metrics(const Call&) { return std::nullopt; }

NamedTensors run_metrics(const Call& call, DeviceContext& device) {
  const Tensor& input = require(call.tensors, "inputs/expert_load");
  const std::int64_t layers = input.extent(0), experts = input.extent(1);
  CallTensors tensors(call, device);
  const DeviceTensor load = tensors.upload("inputs/expert_load", DataType::int64);
  const auto result = [&](const char* name, Shape shape) {
    return tensors.result(std::string("outputs/") + name, DataType::float64, std::move(shape)).as<double>();
  };
  MetricsOutput out{};
  out.cv = result("cv", {layers});
  out.utilization = result("expert_utilization", {layers, experts});
  out.dead = result("dead_expert_frac", {layers});
  out.diversity = result("expert_diversity", {layers});
  out.aggregates = device.output(DataType::float64, {kAggregates}).as<double>();
  load_balance_metrics(layers, static_cast<int>(experts), load.as<std::int64_t>(), out, device.stream());
  NamedTensors results = tensors.download();
  if (layers == 0) return results;
  const Tensor aggregates = device.download({out.aggregates, DataType::float64, {kAggregates}});
  for (int i = 0; i < kAggregates; ++i) {
    Tensor value(DType::float64, {});
    value.set(0, aggregates[i]);
    results[std::string("outputs/") + kNames[static_cast<std::size_t>(i)]] = std::move(value);
  }
  return results;
}

}  // namespace moeref::cuda
