// Devices, their streams and their memory, for tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "moeref/cuda/bootstrap.hpp"
#include "moeref/cuda/device.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/group.hpp"

namespace moeref::cuda::test {

/// For kernels of several ranks that wait for each other on one device: each has a queue of its own, and none
/// waits to be loaded. Before main() asks for a device.
inline const bool kKernelsRunTogether =
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0) == 0 && setenv("CUDA_MODULE_LOADING", "EAGER", 0) == 0;

/// Empty when there is a device that runs these kernels, else why not.
inline std::string device_missing() {
  const auto why = moeref::cuda::device_missing();
  return why ? *why + ": nothing was tested" : "";
}
/// The same for the wgmma kernels.
inline std::string wgmma_missing() {
  if (std::string why = device_missing(); !why.empty()) return why;
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return major == 9 && minor == 0 ? "" : "the device is not of compute capability 9.0: nothing was tested";
}
/// Skips the test, visibly, where `reason` says why it cannot run.
#define MOEREF_SKIP(reason) \
  if (const std::string& why = (reason); !why.empty()) GTEST_SKIP() << why
#define MOEREF_NEEDS_DEVICE() MOEREF_SKIP(::moeref::cuda::test::device_missing())

inline int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/// Whether the ranks can be played here: they may share a device, but not with NCCL.
inline bool enough_devices(Transport transport, int ranks) {
  return transport != Transport::nccl || device_count() >= ranks;
}
#define MOEREF_NEEDS_RANKS(transport, ranks)                                               \
  MOEREF_NEEDS_DEVICE();                                                                   \
  if (!enough_devices(transport, ranks))                                                   \
  GTEST_SKIP() << "NCCL wants " << (ranks) << " CUDA devices, here are " << device_count() \
               << ": nothing was tested"

/// That other streams' kernels and copies do not wait for.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Whether kernels of all streams are sure to run together: CUDA does not promise it, the emulated device
/// does.
inline constexpr bool kRunsKernelsTogether =
#if __has_include("emulated/device.hpp")
    true;
#else
    false;
#endif

/// run_ranks for kernels that wait for each other: where ranks that share a device timed out and that device
/// may run their kernels one after another, gives what to skip the test with, else nothing.
inline std::string run_ranks_together(int ranks,
                                      const std::function<void(const std::shared_ptr<Bootstrap>&)>& body) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  try {
    run_ranks(ranks, body);
  } catch (const GroupError& e) {
    const bool timed_out = std::string(e.what()).find("did not come within") != std::string::npos;
    if (devices >= ranks || !timed_out || kRunsKernelsTogether) throw;
    return std::to_string(ranks) + " ranks on " + std::to_string(devices) +
           " devices did not run together: nothing was tested";
  }
  return "";
}

/// As an application does that asks for more than there is and goes on with less.
inline void leave_an_error() {
  void* memory = nullptr;
  ASSERT_NE(cudaMalloc(&memory, std::size_t{1} << 60), cudaSuccess);
}

/// An array on the device, filled with 0xff bytes (NaN as bf16 or float, -1 as int) unless given values.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(count * sizeof(T), 256)),
          "cudaMalloc");
    poison();
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  void poison(int byte = 0xff) {
    check(cudaMemset(data_, byte, count_ * sizeof(T)), "cudaMemset");
    arrive();
  }
  void set(const std::vector<T>& values) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    arrive();
  }
  std::vector<T> get() const {
    std::vector<T> out(count_);
    check(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }
  T* data() const { return data_; }
  std::size_t size() const { return count_; }

 private:
  /// Both calls may return before the device has done what they ask, for which Streams do not wait.
  static void arrive() { check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize"); }

  T* data_ = nullptr;
  std::size_t count_;
};

}  // namespace moeref::cuda::test
