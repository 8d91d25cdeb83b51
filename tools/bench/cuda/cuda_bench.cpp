#include "tools/bench/cuda/cuda_bench.hpp"

#include <algorithm>
#include <string>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/cuda/error.hpp"
#include "tools/bench/cuda/benchmarks.hpp"
#include "tools/bench/cuda/dense_products.hpp"
#include "tools/bench/cuda/device_watch.hpp"

namespace moeref::cuda::bench {
namespace {

using moeref::bench::Layer;
using moeref::bench::Measurement;

/// An H200's limits in bfloat16 (cuda_impl/README.md), a millisecond.
constexpr double kFlopsPerMs = 790e9, kBytesPerMs = 4.3e9;

double floor_ms(double flops, double bytes) { return std::max(flops / kFlopsPerMs, bytes / kBytesPerMs); }

const Benchmark& benchmark_of(Component component) {
  for (const Benchmark& b : benchmarks())
    if (b.component == component) return b;
  throw ArgumentError("component " + std::string(name(component)) + " has no benchmark");
}

/// Most rows of an expert over their mean.
double imbalance(const int* ids, const Layer& layer) {
  const auto rows = static_cast<std::size_t>(layer.tokens * layer.config.n_activated_experts);
  const auto experts = static_cast<std::size_t>(layer.config.n_routed_experts);
  std::vector<int> host(rows);
  check(cudaMemcpy(host.data(), ids, rows * sizeof(int), cudaMemcpyDeviceToHost), "cudaMemcpy");
  std::vector<std::int64_t> load(experts, 0);
  for (const int id : host)
    if (id >= 0 && static_cast<std::size_t>(id) < experts) ++load[static_cast<std::size_t>(id)];
  return static_cast<double>(*std::max_element(load.begin(), load.end())) * static_cast<double>(experts) /
         static_cast<double>(rows);
}

/// The kernels take extents as int.
void check_extents(const MoEConfig& c) {
  const std::pair<const char*, std::int64_t> extents[] = {{"dim", c.dim},
                                                          {"moe_inter_dim", c.moe_inter_dim},
                                                          {"n_routed_experts", c.n_routed_experts},
                                                          {"n_activated_experts", c.n_activated_experts},
                                                          {"moe_latent_size", c.expert_dim()},
                                                          {"the shared experts' width", c.shared_dim()}};
  for (const auto& [field, extent] : extents)
    if (extent > std::int64_t{1} << 30)
      throw ArgumentError(std::string(field) + " is " + std::to_string(extent) + ": want at most 2^30");
}

std::vector<Measurement> run(const Layer& layer, Component component, int repeat) {
  check_extents(layer.config);
  Buffers memory(data_type(layer.config.dtype));
  Blas blas;
  const Prepared prepared = benchmark_of(component).prepare(layer, memory, blas);
  const double parameter_bytes = memory.parameter_bytes();
  const DenseProducts dense(moeref::bench::forward_products(component, layer), memory);
  check(cudaDeviceSynchronize(), "filling the inputs");

  Measurement forward;
  forward.component = component;
  if (prepared.ids) {
    double sum = 0.0;
    constexpr int kInputs = 2;
    for (int i = 0; i < kInputs; ++i) {
      prepared.forward(i);
      check(cudaDeviceSynchronize(), "forward");
      sum += imbalance(prepared.ids, layer);
    }
    forward.imbalance = sum / kInputs;
  }
  constexpr double kHeatSeconds = 1.0;  // each layer begins at the clock that its own works lead to
  DeviceWatch watch;
  const std::vector<Times> times =
      time_in_turn(repeat, {[&](int i) { dense.run(i); }, prepared.forward, prepared.both}, kHeatSeconds);
  if (const std::optional<DeviceState> state = watch.end())
    forward.sm_mhz = state->sm_mhz, forward.watts = state->watts, forward.celsius = state->celsius;

  const auto set = [](Measurement& m, const Times& t) {
    m.median_ms = t.median_ms, m.least_ms = t.least_ms, m.most_ms = t.most_ms;
  };
  set(forward, times[1]);
  forward.flops = moeref::bench::forward_flops(component, layer);
  forward.dense_ms = times[0].median_ms;
  forward.dense_moved = times[0].moved;
  forward.memory_bytes = static_cast<double>(prepared.forward_memory);
  if (prepared.kernels) forward.kernels = prepared.kernels;

  Measurement both = forward;
  both.backward = true;
  set(both, times[2]);
  both.flops = 3.0 * forward.flops;
  both.dense_ms = 3.0 * times[0].median_ms;
  both.memory_bytes = static_cast<double>(prepared.both_memory);
  both.kept_bytes = prepared.input_bytes + static_cast<double>(prepared.saved);
  both.least_kept_bytes = prepared.input_bytes + prepared.least_saved;

  if (memory.type() == DataType::bfloat16) {
    // Each pass reads what it needs once and writes its results once; what is between them counts as free.
    const double x = prepared.input_bytes, y = prepared.output_bytes, w = parameter_bytes;
    forward.floor_ms = floor_ms(forward.flops, x + w + y);
    both.floor_ms = floor_ms(both.flops, (x + w + y) + (x + w + y) + (x + w));
  }
  return {forward, both};
}

}  // namespace

std::vector<Measurement> measure(const Layer& layer, Component component, int repeat) {
  try {
    return run(layer, component, repeat);
  } catch (const std::exception& error) {
    // A failed allocation stays behind as the thread's last error, which later launches would report as
    // theirs.
    cudaGetLastError();
    const cudaError_t after = cudaDeviceSynchronize();
    if (after != cudaSuccess)
      throw moeref::bench::DeviceLost(std::string(error.what()) +
                                      "; the device is lost: " + cudaGetErrorString(after));
    throw;
  }
}

}  // namespace moeref::cuda::bench
