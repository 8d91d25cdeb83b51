// Devices of compute capability 8.0: eight, or as many as MOEREF_EMULATED_DEVICES says.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <thread>

#include "cuda_runtime_api.h"
#include "emulated/faults.hpp"

namespace {

constexpr int kMostDevices = 8;
const int kDevices = [] {
  const char* wanted = std::getenv("MOEREF_EMULATED_DEVICES");
  return wanted ? std::clamp(std::atoi(wanted), 1, kMostDevices) : kMostDevices;
}();
thread_local int current_device = 0;
bool is_device(int device) { return device >= 0 && device < kDevices; }
std::array<std::atomic<int>, kMostDevices> context_ms{};  // of cudaSetDevice

/// Machines that a test makes of one by namespaces have names, and devices, of their own.
unsigned pci_domain() {
  char name[64] = {};
  gethostname(name, sizeof name - 1);
  return std::hash<std::string_view>{}(name)&0xffff;
}

}  // namespace

void emulated::slow_device(int device, std::chrono::milliseconds time) {
  context_ms.at(static_cast<std::size_t>(device)) = static_cast<int>(time.count());
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return cudaErrorInvalidDevice;
  std::this_thread::sleep_for(std::chrono::milliseconds(context_ms.at(static_cast<std::size_t>(device))));
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!is_device(device)) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int device) {
  if (!is_device(device)) return cudaErrorInvalidDevice;
  std::snprintf(id, static_cast<std::size_t>(size), "%04x:%02x:00.0", pci_domain(),
                static_cast<unsigned>(device));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* id) {
  unsigned domain = 0, bus = 0;
  if (std::sscanf(id, "%4x:%2x:00.0", &domain, &bus) != 2 || domain != pci_domain() ||
      !is_device(static_cast<int>(bus)))
    return cudaErrorInvalidValue;
  *device = static_cast<int>(bus);
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!is_device(device) || !is_device(peer)) return cudaErrorInvalidDevice;
  *can = device != peer;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return is_device(peer) ? cudaSuccess : cudaErrorInvalidDevice;
}
