// Device buffers with random numbers, and medians of timed runs.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::bench {

/// Near normal numbers of deviation `scale`: each the sum of four uniform 16-bit ones.
void fill_normal(void* out, std::size_t n, DataType type, float scale, unsigned seed, cudaStream_t stream);

/// Keeps the stream busy for about that long, so that the host gets ahead of it.
void hold(cudaStream_t stream, unsigned microseconds);

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
struct NormalBuffer : DeviceBuffer<char> {
  NormalBuffer(std::size_t n, float scale, unsigned seed, DataType type = DataType::bfloat16)
      : DeviceBuffer(n * bytes_of(type)) {
    fill_normal(data, n, type, scale, seed, nullptr);
  }
};

/// Enqueues work on the default stream. The number counts calls, so that it can choose other inputs each
/// time.
using Work = std::function<void(int)>;

/// The upper one of two in the middle.
double median(std::vector<double> values);

struct Times {
  double median_ms, least_ms, most_ms;
  double moved;  // |median of the later half of the rounds / of the earlier half - 1|
};

/// Device times of `repeat` rounds, each of which runs all of the works one after another: what slows the
/// card down over time, such as heat, slows all of them alike. Three rounds before them warm up, or as many
/// as take `heat_seconds`, after which the card's clock is that of these works. Throws CudaError.
std::vector<Times> time_in_turn(int repeat, const std::vector<Work>& works, double heat_seconds = 0.0);

/// Device time of one run, after which the device is idle.
double once_ms(const Work& work, int call);

/// Median of one work's device times.
double median_ms(int repeat, const Work& work);

}  // namespace moeref::cuda::bench
