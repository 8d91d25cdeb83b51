// Device buffers with random numbers, and medians of timed runs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda::bench {

/// Near normal, of deviation `scale`: the sum of four uniform 16-bit numbers.
static __global__ void fill_normal(__nv_bfloat16* out, std::size_t n, float scale, unsigned seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n;
       i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned long long z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1342543de82ef95ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    float sum = 0;
    for (int k = 0; k < 4; ++k) sum += static_cast<float>((z >> (16 * k)) & 0xffff) / 65536.0f - 0.5f;
    out[i] = __float2bfloat16(sum * 1.7320508f * scale);
  }
}

template <class T>
struct DeviceBuffer {
  T* data = nullptr;
  explicit DeviceBuffer(std::size_t n) {
    check(cudaMalloc(reinterpret_cast<void**>(&data), std::max<std::size_t>(n * sizeof(T), 256)),
          "cudaMalloc");
    check(cudaMemset(data, 0, n * sizeof(T)), "cudaMemset");
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data); }
};
struct NormalBuffer : DeviceBuffer<__nv_bfloat16> {
  NormalBuffer(std::size_t n, float scale, unsigned seed) : DeviceBuffer(n) {
    fill_normal<<<1024, 256>>>(data, n, scale, seed);
  }
};

/// Median of the device times of run(0), run(1), ... after three that warm up.
inline double median_ms(int repeat, const std::function<void(int)>& run) {
  std::vector<cudaEvent_t> events(static_cast<std::size_t>(repeat) + 1);
  for (cudaEvent_t& e : events) check(cudaEventCreate(&e), "cudaEventCreate");
  for (int i = 0; i < 3; ++i) run(i);
  check(cudaEventRecord(events[0]), "cudaEventRecord");
  for (int i = 0; i < repeat; ++i) {
    run(i);
    check(cudaEventRecord(events[static_cast<std::size_t>(i) + 1]), "cudaEventRecord");
  }
  check(cudaDeviceSynchronize(), "timed runs");
  std::vector<float> times(static_cast<std::size_t>(repeat));
  for (std::size_t i = 0; i < times.size(); ++i)
    check(cudaEventElapsedTime(&times[i], events[i], events[i + 1]), "cudaEventElapsedTime");
  for (cudaEvent_t& e : events) cudaEventDestroy(e);
  std::nth_element(times.begin(), times.begin() + repeat / 2, times.end());
  return times[static_cast<std::size_t>(repeat) / 2];
}

}  // namespace moeref::cuda::bench
