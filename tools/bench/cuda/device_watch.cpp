#include "tools/bench/cuda/device_watch.hpp"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>

namespace moeref::cuda::bench {
namespace {

/// The few functions of libnvidia-ml.so.1 that are wanted here, by its documented C interface: 0 is success.
class Nvml {
 public:
  using Device = void*;

  static const Nvml* loaded() {
    static const Nvml nvml;
    return nvml.works_ ? &nvml : nullptr;
  }
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*device_by_bus)(const char*, Device*) = nullptr;
  int (*clock)(Device, int kind, unsigned* mhz) = nullptr;
  int (*milliwatts)(Device, unsigned*) = nullptr;
  int (*temperature)(Device, int sensor, unsigned*) = nullptr;

 private:
  Nvml() {
    // Never closed: a watch may still be reading when the program ends.
    void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    const auto find = [&]<class F>(F& function, const char* name) {
      function = reinterpret_cast<F>(dlsym(library, name));
      return function != nullptr;
    };
    int (*init)() = nullptr;
    works_ = find(init, "nvmlInit_v2") && find(driver_version, "nvmlSystemGetDriverVersion") &&
             find(device_by_bus, "nvmlDeviceGetHandleByPciBusId_v2") &&
             find(clock, "nvmlDeviceGetClockInfo") && find(milliwatts, "nvmlDeviceGetPowerUsage") &&
             find(temperature, "nvmlDeviceGetTemperature") && init() == 0;
  }
  bool works_ = false;
};
constexpr int kSmClock = 1, kGpuSensor = 0;  // NVML_CLOCK_SM, NVML_TEMPERATURE_GPU

}  // namespace

std::string driver_version() {
  char text[96] = "";
  const Nvml* nvml = Nvml::loaded();
  return nvml && nvml->driver_version(text, sizeof text) == 0 ? text : "unknown";
}

DeviceWatch::DeviceWatch() {
  const Nvml* nvml = Nvml::loaded();
  int current = 0;
  char bus[32] = "";
  Nvml::Device device = nullptr;
  if (!nvml || cudaGetDevice(&current) != cudaSuccess ||
      cudaDeviceGetPCIBusId(bus, sizeof bus, current) != cudaSuccess ||
      nvml->device_by_bus(bus, &device) != 0)
    return;
  thread_ = std::thread([this, nvml, device] {
    while (!ends_) {
      unsigned mhz = 0, milliwatts = 0, celsius = 0;
      if (nvml->clock(device, kSmClock, &mhz) == 0 && nvml->milliwatts(device, &milliwatts) == 0 &&
          nvml->temperature(device, kGpuSensor, &celsius) == 0) {
        sum_.sm_mhz += mhz, sum_.watts += milliwatts / 1000.0, sum_.celsius += celsius;
        ++readings_;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
}

DeviceWatch::~DeviceWatch() { end(); }

std::optional<DeviceState> DeviceWatch::end() {
  ends_ = true;
  if (thread_.joinable()) thread_.join();
  if (readings_ == 0) return std::nullopt;
  const double n = readings_;
  return DeviceState{sum_.sm_mhz / n, sum_.watts / n, sum_.celsius / n};
}

}  // namespace moeref::cuda::bench
