// A name for the current device that no other device of any host has.
#pragma once

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

/// Ranks tell each other theirs. Parts of one GPU (MIG) have the same.
struct DeviceName {
  char host[64], bus[32];
  bool same_host(const DeviceName& other) const { return std::strcmp(host, other.host) == 0; }
  bool operator==(const DeviceName& other) const {
    return same_host(other) && std::strcmp(bus, other.bus) == 0;
  }
};

/// Differs between machines that run at the same time; containers of one machine have the same.
inline std::string host_name() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  if (!id.empty()) return id;
  char name[64] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

inline DeviceName name_of_device(int device) {
  DeviceName out{};
  std::strncpy(out.host, host_name().c_str(), sizeof out.host - 1);
  check(cudaDeviceGetPCIBusId(out.bus, sizeof out.bus, device), "cudaDeviceGetPCIBusId");
  return out;
}
inline DeviceName name_of_current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return name_of_device(device);
}

}  // namespace moeref::cuda
