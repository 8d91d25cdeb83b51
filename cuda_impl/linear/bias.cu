// Biases over rows, their gradients, and dot products of rows. column_sum: up to 64 parts of the rows, each
// summed by a block per 64 columns, then the parts in order. Floor: the matrix read once.
#include <algorithm>

#include "cuda_impl/linear/linear.hpp"
#include "cuda_impl/memory/element.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kParts = 64, kRowsOfPart = 128;

template <class T>
__global__ void add_bias_kernel(std::int64_t rows, int width, const T* __restrict__ bias,
                                const float* __restrict__ row_scale, T* __restrict__ y, bool add) {
  const std::int64_t total = rows * width;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < total;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    float v = to_float(bias[i % width]);
    if (row_scale != nullptr) v *= row_scale[i / width];
    y[i] = from_float<T>(add ? to_float(y[i]) + v : v);
  }
}

template <class T>
__global__ void row_dot_kernel(std::int64_t rows, int width, const T* __restrict__ matrix,
                               const T* __restrict__ vector, float* __restrict__ out, bool add) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float sum = 0;
  for (int i = lane; i < width; i += 32) sum += to_float(matrix[row * width + i]) * to_float(vector[i]);
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (lane == 0) out[row] = add ? out[row] + sum : sum;
}

template <class T>
__global__ void column_parts(std::int64_t rows, int width, const T* __restrict__ matrix,
                             const float* __restrict__ row_scale, float* __restrict__ parts) {
  __shared__ float partial[4][64];
  const int column = blockIdx.x * 64 + threadIdx.x % 64, down = threadIdx.x / 64;
  const std::int64_t size = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * size,
                     last = min(first + size, rows);
  float sum = 0;
  if (column < width)
    for (std::int64_t r = first + down; r < last; r += 4) {
      const float v = to_float(matrix[r * width + column]);
      sum += row_scale != nullptr ? v * row_scale[r] : v;
    }
  partial[down][threadIdx.x % 64] = sum;
  __syncthreads();
  if (threadIdx.x < 64 && column < width)
    parts[std::int64_t{blockIdx.y} * width + column] = (partial[0][threadIdx.x] + partial[1][threadIdx.x]) +
                                                       (partial[2][threadIdx.x] + partial[3][threadIdx.x]);
}

template <class T>
__global__ void sum_parts(int count, int width, const float* __restrict__ parts, T* __restrict__ out) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  float sum = 0;
  for (int p = 0; p < count; ++p) sum += parts[std::int64_t{p} * width + column];
  out[column] = from_float<T>(sum);
}

}  // namespace

void add_bias(DataType dtype, std::int64_t rows, int width, const void* bias, const float* row_scale, void* y,
              bool add, cudaStream_t stream) {
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((rows * width + 255) / 256, 4096));
  with_type(dtype, [&]<class T>() {
    add_bias_kernel<T><<<blocks, 256, 0, stream>>>(rows, width, static_cast<const T*>(bias), row_scale,
                                                   static_cast<T*>(y), add);
  });
  check(cudaGetLastError(), "add_bias");
}

void row_dot(DataType dtype, std::int64_t rows, int width, const void* matrix, const void* vector, float* out,
             bool add, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&]<class T>() {
    row_dot_kernel<T><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
        rows, width, static_cast<const T*>(matrix), static_cast<const T*>(vector), out, add);
  });
  check(cudaGetLastError(), "row_dot");
}

std::size_t column_sum_workspace_bytes(int width) { return std::size_t{kParts} * width * sizeof(float); }

void column_sum(DataType dtype, std::int64_t rows, int width, const void* matrix, const float* row_scale,
                void* out, void* workspace, cudaStream_t stream) {
  const int parts =
      static_cast<int>(std::clamp<std::int64_t>((rows + kRowsOfPart - 1) / kRowsOfPart, 1, kParts));
  float* sums = static_cast<float*>(workspace);
  with_type(dtype, [&]<class T>() {
    column_parts<T><<<dim3((width + 63) / 64, parts), 256, 0, stream>>>(
        rows, width, static_cast<const T*>(matrix), row_scale, sums);
    sum_parts<T><<<(width + 255) / 256, 256, 0, stream>>>(parts, width, sums, static_cast<T*>(out));
  });
  check(cudaGetLastError(), "column_sum");
}

}  // namespace moeref::cuda
