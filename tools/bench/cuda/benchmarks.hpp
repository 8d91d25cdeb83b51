// The table of benchmarks: one function a component.
#pragma once

#include <span>

#include "moeref/cuda/blas.hpp"
#include "tools/bench/cuda/buffers.hpp"
#include "tools/bench/cuda/device_timing.hpp"
#include "tools/bench/measurement.hpp"

namespace moeref::cuda::bench {

/// A component with all of its buffers, ready to be enqueued on the default stream. Sizes in bytes.
struct Prepared {
  Work forward, both;        ///< both: forward that saves, then backward
  const int* ids = nullptr;  ///< [T, k] the routing of the latest call; null where nothing is routed
  double input_bytes = 0.0, output_bytes = 0.0;  ///< x, and what forward gives
  std::size_t forward_memory = 0, both_memory = 0;
  std::size_t saved = 0;   ///< by forward for backward
  double least_saved = 0;  ///< H and routing metadata without any padding
  const char* kernels = nullptr;
};

struct Benchmark {
  Component component;
  /// Throws ArgumentError for what the component does not serve, and as Buffers does.
  Prepared (*prepare)(const moeref::bench::Layer& layer, Buffers& memory, Blas& blas);
};

/// gate, experts, mlp, moe.
std::span<const Benchmark> benchmarks();

Prepared prepare_gate(const moeref::bench::Layer& layer, Buffers& memory, Blas& blas);
Prepared prepare_experts(const moeref::bench::Layer& layer, Buffers& memory, Blas& blas);
Prepared prepare_mlp(const moeref::bench::Layer& layer, Buffers& memory, Blas& blas);
Prepared prepare_layer(const moeref::bench::Layer& layer, Buffers& memory, Blas& blas);

}  // namespace moeref::cuda::bench
