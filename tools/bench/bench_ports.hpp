// The ports that `moeref bench` can time: the reference in this process, and every library whose table has
// bench() (moeref/port.h).
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench/measurement.hpp"

namespace moeref {

/// The parts of a layer that have a benchmark, in the order of reports.
inline constexpr std::array kBenchComponents{Component::gate, Component::experts, Component::mlp,
                                             Component::moe};

/// What is measured where the command line does not say.
struct BenchDefaults {
  int repeat;                ///< rounds
  std::int64_t tokens;       ///< of every layer; 0: the shape's own
  std::int64_t user_tokens;  ///< of a user's own layer that does not say either
  int narrower;              ///< the shapes' widths are divided by this
};

class BenchPort {
 public:
  virtual ~BenchPort() = default;
  virtual BenchDefaults defaults() const = 0;
  /// About the machine, as titles and texts.
  virtual bench::Facts facts() const = 0;
  /// Threads that compute, for times per core; 0 where a device does.
  virtual int threads() const = 0;
  /// Forward, and forward + backward. Throws PortFailure where the port's process ended or had to be,
  /// anything else where this layer alone cannot be measured.
  virtual std::vector<bench::Measurement> measure(const bench::Layer& layer, Component component,
                                                  int repeat) = 0;
};

/// `limit` is for one measurement. Throws InputError for a port that has no benchmark, or that can measure
/// nothing on this machine.
std::unique_ptr<BenchPort> open_bench_port(std::string_view port, std::chrono::milliseconds limit);

/// The CPU reference, with running error bounds as it always computes (bench_cpu.cpp).
std::vector<bench::Measurement> measure_reference(const bench::Layer& layer, Component component, int repeat);

/// A library with bench(), in a process of its own; `name` is the port's on the command line
/// (bench_library.cpp).
std::unique_ptr<BenchPort> open_bench_library(std::string_view name, const std::string& library,
                                              std::chrono::milliseconds limit);

}  // namespace moeref
