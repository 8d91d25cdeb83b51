// What NVML says of the device while it works. The library is loaded when first asked; where it is missing
// nothing is known.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>

namespace moeref::cuda::bench {

/// "580.159.04", or "unknown": CUDA itself knows only which CUDA the driver serves.
std::string driver_version();

/// Means over the time that was watched.
struct DeviceState {
  double sm_mhz, watts, celsius;
};

/// Reads the current device's clock, power and temperature every few milliseconds while it lives.
class DeviceWatch {
 public:
  DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  ~DeviceWatch();
  /// Ends the watch. None where NVML told nothing.
  std::optional<DeviceState> end();

 private:
  std::atomic<bool> ends_ = false;
  DeviceState sum_{};
  int readings_ = 0;
  std::thread thread_;
};

}  // namespace moeref::cuda::bench
