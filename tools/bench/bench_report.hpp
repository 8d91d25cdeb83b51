// What a benchmark run measured: the model of its table, its JSON and its picture.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/bench/measurement.hpp"

namespace moeref {

/// One pass of one component of one layer.
struct BenchRow {
  std::string shape;  ///< "qwen3_30b", "mixtral/16", or a user's own
  bench::Layer layer;
  bench::Measurement measured;
  int cores = 0;  ///< threads that computed; 0 on a device

  /// "forward" or "forward+backward".
  std::string_view pass() const;
  std::optional<double> tflops() const;         ///< on a device
  std::optional<double> gflops_a_core() const;  ///< elsewhere
  std::optional<double> dense_share() const;    ///< time of the dense equivalent / time
  std::optional<double> floor_share() const;    ///< least possible time / time
  std::optional<double> kept_ratio() const;     ///< kept for backward / x, H and routing metadata
  /// (longest time - shortest) / median.
  double spread() const { return (measured.most_ms - measured.least_ms) / measured.median_ms; }
};

/// What could not be measured, and why.
struct BenchFailure {
  std::string shape;
  std::int64_t tokens = 0;
  Component component = Component::moe;
  std::string reason;
};

struct BenchReport {
  std::string moeref;  ///< version
  std::string commit;  ///< as git described the sources; empty = unknown
  std::string port;
  bench::Facts environment;
  int repeat = 0;
  std::vector<BenchRow> rows;
  std::vector<BenchFailure> failures;
  double seconds = 0.0;
  bool crashed = false;  ///< a process of the port ended, or had to be ended

  int exit_code() const;
};

/// By how much dense products may move in a measurement before its shares are to be doubted.
constexpr double kSteadyDense = 0.03;

/// The commit that the build was configured at, as git describes it; empty where there was no git.
std::string bench_commit();

/// Text of several lines for a terminal: a row a measurement, then what could not be measured.
std::string bench_table(const BenchReport& report, bool colours);

/// Fields: README.md of tools.
std::string bench_json(const BenchReport& report);

/// Time against tokens as one SVG that needs nothing else: a panel a pass, a line a shape. Of the whole
/// layer, or of the first component that was measured where it was not. Logarithmic axes.
std::string bench_picture(const BenchReport& report);

}  // namespace moeref
