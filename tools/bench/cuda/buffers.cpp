#include "tools/bench/cuda/buffers.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "moeref/cuda/error.hpp"
#include "tools/bench/cuda/device_timing.hpp"

namespace moeref::cuda::bench {
namespace {

std::string gib(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1u << 30));
  return text;
}

}  // namespace

Buffers::Buffers(DataType type) : type_(type) {
  check_matrix_type(type, "dtype");
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
  l2_bytes_ = static_cast<std::size_t>(std::max(bytes, 0));
}

void Buffers::Free::operator()(void* data) const { cudaFree(data); }

std::size_t Buffers::product(Extents extents, std::size_t element) {
  std::size_t bytes = element;
  for (const std::int64_t extent : extents)
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(extent), &bytes) ||
        bytes > (std::size_t{1} << 62)) {
      std::string shape;
      for (const std::int64_t e : extents) shape += (shape.empty() ? "" : " x ") + std::to_string(e);
      throw ArgumentError("an array of " + shape + " elements is too large for any device");
    }
  return bytes;
}

void* Buffers::allocate(std::size_t bytes) {
  const std::size_t rounded = std::max<std::size_t>((bytes + 255) / 256 * 256, 256);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, rounded);
  if (status != cudaSuccess)
    throw CudaError("cudaMalloc of " + gib(rounded) + " after " + gib(used_) + ": " +
                    cudaGetErrorString(status));
  blocks_.emplace_back(data);
  used_ += rounded;
  return data;
}

void* Buffers::zeros(std::size_t bytes) {
  void* data = allocate(bytes);
  check(cudaMemset(data, 0, bytes), "cudaMemset");
  return data;
}

void* Buffers::normal(Extents extents, double scale, DataType type) {
  const std::size_t bytes = product(extents, bytes_of(type));
  void* data = allocate(bytes);
  fill_normal(data, bytes / bytes_of(type), type, static_cast<float>(scale), ++seed_, nullptr);
  return data;
}

Parameter Buffers::parameter(Extents extents, double scale) {
  parameter_bytes_ += static_cast<double>(product(extents, bytes_of(type_)));
  return {normal(extents, scale, type_), result(extents)};
}

InputSets Buffers::inputs(Extents extents, double scale) {
  const std::size_t bytes = product(extents, bytes_of(type_));
  InputSets sets;
  sets.stride = std::max<std::size_t>((bytes + 255) / 256 * 256, 256);
  sets.count = static_cast<int>(l2_bytes_ / sets.stride + 2);
  // Three works take turns, each call with the next set: a multiple of three would give each work sets of its
  // own.
  if (sets.count % 3 == 0) ++sets.count;
  const auto total = static_cast<std::int64_t>(sets.stride / bytes_of(type_)) * sets.count;
  sets.data = static_cast<char*>(normal({total}, scale, type_));
  return sets;
}

}  // namespace moeref::cuda::bench
