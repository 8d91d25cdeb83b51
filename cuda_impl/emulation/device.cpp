// Devices of compute capability 8.0 that are one memory, and what is allocated there: eight, or as many as
// MOEREF_EMULATED_DEVICES says.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "cuda_runtime_api.h"

namespace {

const int kDevices = [] {
  const char* wanted = std::getenv("MOEREF_EMULATED_DEVICES");
  return wanted ? std::clamp(std::atoi(wanted), 1, 8) : 8;
}();
constexpr std::size_t kMemory = std::size_t{1} << 30;  // what all allocations together may have
constexpr std::size_t kAlignment = 256;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGuard = 0;  // it has its own
#else
constexpr std::size_t kGuard = 256;
#endif
constexpr unsigned char kGuardByte = 0xa7;

thread_local int current_device = 0;
bool is_device(int device) { return device >= 0 && device < kDevices; }

/// All memory of the devices and what the host has pinned.
class Memory {
 public:
  cudaError_t take(void** out, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (bytes > kMemory - used_) return cudaErrorMemoryAllocation;
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, std::max<std::size_t>(bytes + kGuard, 1)) != 0)
      return cudaErrorMemoryAllocation;
    std::memset(memory, 0xff, bytes);  // NaN, and -1
    std::memset(static_cast<char*>(memory) + bytes, kGuardByte, kGuard);
    sizes_[memory] = bytes;
    used_ += bytes;
    *out = memory;
    return cudaSuccess;
  }
  cudaError_t give_back(void* memory) {
    if (!memory) return cudaSuccess;
    const std::lock_guard lock(mutex_);
    const auto at = sizes_.find(memory);
    if (at == sizes_.end()) return cudaErrorInvalidValue;
    for (std::size_t i = 0; i < kGuard; ++i)
      if (static_cast<unsigned char*>(memory)[at->second + i] != kGuardByte) {
        std::fprintf(stderr, "emulated device: byte %zu behind an allocation of %zu was written\n", i,
                     at->second);
        std::abort();
      }
    used_ -= at->second;
    sizes_.erase(at);
    std::free(memory);
    return cudaSuccess;
  }
  std::size_t used() {
    const std::lock_guard lock(mutex_);
    return used_;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, std::size_t> sizes_;
  std::size_t used_ = 0;
};

Memory& memory() {
  static Memory m;
  return m;
}

}  // namespace

cudaError_t cudaMalloc(void** out, std::size_t bytes) { return memory().take(out, bytes); }
cudaError_t cudaMallocAsync(void** out, std::size_t bytes, cudaStream_t) { return memory().take(out, bytes); }
cudaError_t cudaFree(void* p) { return memory().give_back(p); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return memory().give_back(p); }
cudaError_t cudaHostAlloc(void** out, std::size_t bytes, unsigned) { return memory().take(out, bytes); }
cudaError_t cudaFreeHost(void* p) { return memory().give_back(p); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = kMemory;
  *free = kMemory - memory().used();
  return cudaSuccess;
}

// The ranks of one process alone reach each other.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return cudaErrorNotSupported; }
cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) { return cudaErrorNotSupported; }
cudaError_t cudaIpcCloseMemHandle(void*) { return cudaErrorNotSupported; }

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
  std::snprintf(id, static_cast<std::size_t>(size), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* id) {
  unsigned bus = 0;
  if (std::sscanf(id, "0000:%2x:00.0", &bus) != 1 || !is_device(static_cast<int>(bus)))
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
