// The ports that `moeref bench` can time. A new one is one entry of the table in bench_ports.cpp.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench/measurement.hpp"

namespace moeref {

/// The parts of a layer that have a benchmark, in the order of reports.
inline constexpr std::array kBenchComponents{Component::gate, Component::experts, Component::mlp,
                                             Component::moe};

struct BenchPort {
  std::string_view name;
  int repeat;                ///< rounds where the command line says none
  std::int64_t tokens;       ///< of every layer where the command line says none; 0: the shape's own
  std::int64_t user_tokens;  ///< of a user's own layer where neither it nor the command line says
  int narrower;              ///< the shapes' widths are divided by this
  /// Throws an exception that says why nothing can be measured here.
  bench::Facts (*facts)();
  /// Threads that compute, for times a core; 0 where the port has none.
  int (*cores)();
  /// Forward, and forward + backward. Throws DeviceLost where no more calls make sense, anything else for
  /// this layer alone.
  std::vector<bench::Measurement> (*measure)(const bench::Layer& layer, Component component, int repeat);
};

/// Throws InputError for a port that has no benchmark, and for `cuda` in a build without it.
const BenchPort& find_bench_port(std::string_view port);

/// The CPU reference, with running error bounds as it always computes (bench_cpu.cpp).
std::vector<bench::Measurement> measure_reference(const bench::Layer& layer, Component component, int repeat);

}  // namespace moeref
