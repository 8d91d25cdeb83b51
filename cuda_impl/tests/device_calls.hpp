// What a program asks of the device, for tests that interfere: on the emulated device by its own hooks, on a
// real one by device_calls.cpp, to which CMake links the calls (--wrap).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <utility>

#if __has_include("emulated/faults.hpp")
#include "emulated/faults.hpp"
#endif

namespace moeref::cuda::test {

/// For as long as it lives, before each kernel launch of the calling thread: calls `step`, and where that
/// gives an error launches nothing and fails, as a launch of too much does.
class BeforeLaunches {
 public:
  explicit BeforeLaunches(std::function<cudaError_t()> step);
  BeforeLaunches(const BeforeLaunches&) = delete;
  ~BeforeLaunches();
};

/// What this process has allocated on devices and not freed: bytes, or as many allocations.
std::int64_t device_memory_held();

#if __has_include("emulated/faults.hpp")

inline BeforeLaunches::BeforeLaunches(std::function<cudaError_t()> step) {
  emulated::intercept("launch", std::move(step));
}
inline BeforeLaunches::~BeforeLaunches() { emulated::intercept("launch", {}); }

inline std::int64_t device_memory_held() {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return static_cast<std::int64_t>(total - free);
}

#endif

}  // namespace moeref::cuda::test
