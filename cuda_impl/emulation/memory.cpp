// The memory of all devices, which is one, and what the host has pinned. What cudaMalloc gives lies in files
// without names, so that other processes can map it as they do by CUDA IPC.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cuda_impl/emulation/runtime.hpp"
#include "emulated/faults.hpp"

namespace {

constexpr std::size_t kMemory = std::size_t{1} << 30;  // what all allocations together may have
constexpr std::size_t kAlignment = 256;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGuard = 0;  // it has its own
#else
constexpr std::size_t kGuard = 256;
#endif
constexpr unsigned char kGuardByte = 0xa7;
constexpr int kNoFile = -1;

std::size_t extent(std::size_t bytes) { return std::max<std::size_t>(bytes + kGuard, 1); }

void* on_heap(std::size_t bytes) {
  void* memory = nullptr;
  return posix_memalign(&memory, kAlignment, extent(bytes)) == 0 ? memory : nullptr;
}

void* map(int file, std::size_t bytes) {
  void* const memory = ::mmap(nullptr, extent(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void* in_file(std::size_t bytes, int& file) {
  file = ::memfd_create("emulated device", MFD_CLOEXEC);
  if (file == kNoFile) return nullptr;
  void* const memory = ::ftruncate(file, static_cast<off_t>(extent(bytes))) == 0 ? map(file, bytes) : nullptr;
  if (!memory) ::close(file);
  return memory;
}

/// What a cudaIpcMemHandle_t holds.
struct Shared {
  pid_t process;
  int file;
  std::size_t bytes;
};
static_assert(sizeof(Shared) <= sizeof(cudaIpcMemHandle_t));

class Memory {
 public:
  cudaError_t take(void** out, std::size_t bytes, bool shareable) {
    const std::lock_guard lock(mutex_);
    if (bytes > kMemory - used_) return cudaErrorMemoryAllocation;
    Block block{bytes, kNoFile};
    void* const memory = shareable ? in_file(bytes, block.file) : on_heap(bytes);
    if (!memory) return cudaErrorMemoryAllocation;
    std::memset(memory, 0xff, bytes);  // NaN, and -1
    std::memset(static_cast<char*>(memory) + bytes, kGuardByte, kGuard);
    blocks_[memory] = block;
    used_ += bytes;
    *out = memory;
    return cudaSuccess;
  }
  cudaError_t give_back(void* memory) {
    if (!memory) return cudaSuccess;
    const std::lock_guard lock(mutex_);
    const auto at = blocks_.find(memory);
    if (at == blocks_.end()) return cudaErrorInvalidValue;
    const Block block = at->second;
    for (std::size_t i = 0; i < kGuard; ++i)
      if (static_cast<unsigned char*>(memory)[block.bytes + i] != kGuardByte) {
        std::fprintf(stderr, "emulated device: byte %zu behind an allocation of %zu was written\n", i,
                     block.bytes);
        std::abort();
      }
    used_ -= block.bytes;
    blocks_.erase(at);
    if (block.file == kNoFile) {
      std::free(memory);
    } else {
      ::munmap(memory, extent(block.bytes));
      ::close(block.file);
    }
    return cudaSuccess;
  }
  std::size_t used() {
    const std::lock_guard lock(mutex_);
    return used_;
  }

  cudaError_t share(cudaIpcMemHandle_t* handle, void* memory) {
    const std::lock_guard lock(mutex_);
    const auto at = blocks_.find(memory);
    if (at == blocks_.end() || at->second.file == kNoFile) return cudaErrorInvalidValue;
    const Shared shared{::getpid(), at->second.file, at->second.bytes};
    std::memcpy(handle, &shared, sizeof shared);
    return cudaSuccess;
  }
  /// As on a device, not for memory of this process.
  cudaError_t open(void** out, const cudaIpcMemHandle_t& handle) {
    Shared shared{};
    std::memcpy(&shared, &handle, sizeof shared);
    if (shared.process == ::getpid()) return cudaErrorInvalidValue;
    const std::string path = "/proc/" + std::to_string(shared.process) + "/fd/" + std::to_string(shared.file);
    const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (file == kNoFile) return cudaErrorInvalidValue;
    void* const memory = map(file, shared.bytes);
    ::close(file);
    if (!memory) return cudaErrorMemoryAllocation;
    const std::lock_guard lock(mutex_);
    opened_[memory] = shared.bytes;
    *out = memory;
    return cudaSuccess;
  }
  cudaError_t close(void* memory) {
    const std::lock_guard lock(mutex_);
    const auto at = opened_.find(memory);
    if (at == opened_.end()) return cudaErrorInvalidValue;
    ::munmap(memory, extent(at->second));
    opened_.erase(at);
    return cudaSuccess;
  }

 private:
  struct Block {
    std::size_t bytes;
    int file;
  };
  std::mutex mutex_;
  std::unordered_map<void*, Block> blocks_;
  std::unordered_map<void*, std::size_t> opened_;  // of other processes
  std::size_t used_ = 0;
};

Memory& memory() {
  static Memory m;
  return m;
}

}  // namespace

using emulated::intercepted, emulated::noted;

cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  if (const cudaError_t error = intercepted("cudaMalloc")) return error;
  return noted(memory().take(out, bytes, true));
}
cudaError_t cudaMallocAsync(void** out, std::size_t bytes, cudaStream_t) {
  return noted(memory().take(out, bytes, false));
}
cudaError_t cudaFree(void* p) {
  if (const cudaError_t error = intercepted("cudaFree")) return error;
  return noted(memory().give_back(p));
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return noted(memory().give_back(p)); }
cudaError_t cudaHostAlloc(void** out, std::size_t bytes, unsigned) {
  if (const cudaError_t error = intercepted("cudaHostAlloc")) return error;
  return noted(memory().take(out, bytes, false));
}
cudaError_t cudaFreeHost(void* p) { return noted(memory().give_back(p)); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = kMemory;
  *free = kMemory - memory().used();
  return cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p) {
  if (const cudaError_t error = intercepted("cudaIpcGetMemHandle")) return error;
  return noted(memory().share(handle, p));
}
cudaError_t cudaIpcOpenMemHandle(void** out, cudaIpcMemHandle_t handle, unsigned) {
  if (const cudaError_t error = intercepted("cudaIpcOpenMemHandle")) return error;
  return noted(memory().open(out, handle));
}
cudaError_t cudaIpcCloseMemHandle(void* p) {
  if (const cudaError_t error = intercepted("cudaIpcCloseMemHandle")) return error;
  return noted(memory().close(p));
}
