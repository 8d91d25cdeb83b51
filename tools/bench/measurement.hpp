// What a benchmark times, and the raw figures that it gives: the same for every port, nothing of CUDA.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref::bench {

/// One layer and the number of tokens that pass through it.
struct Layer {
  MoEConfig config;
  CallOptions options;
  std::int64_t tokens = 0;  ///< at least 1
};

/// One pass of one component. Absent: the port has no such figure.
struct Measurement {
  Component component = Component::moe;
  bool backward = false;  ///< forward + backward, else forward alone
  double median_ms = 0.0, least_ms = 0.0, most_ms = 0.0;
  double flops = 0.0;  ///< of the products (products.hpp), three times the forward's with backward
  std::optional<double> dense_ms;      ///< the same flops as dense products in the same rounds
  std::optional<double> floor_ms;      ///< the device's limits on the same flops and bytes
  std::optional<double> dense_moved;   ///< how far their median moved from the first half of the rounds on
  std::optional<double> memory_bytes;  ///< what the call takes beside inputs, parameters and results
  std::optional<double> kept_bytes;    ///< x and what forward saves, until backward
  std::optional<double> least_kept_bytes;  ///< x, H and routing metadata, to the byte
  std::optional<double> imbalance;         ///< most tokens of an expert / mean over the experts
  /// Means from the first warm-up on: the clock of the multiprocessors, power, temperature.
  std::optional<double> sm_mhz, watts, celsius;
  std::optional<std::string> kernels;  ///< which grouped products ran
};

/// Title and text of each fact about the machine.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// The device answers nothing any more: this process can measure nothing more.
class DeviceLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace moeref::bench
