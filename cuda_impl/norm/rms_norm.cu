// One warp per row normalises it and turns its gradient back; one thread per column and range of rows adds
// the gradient of the factors.
//
// Floor of each pass: x, noise and h or dh moved once, 4 T C bytes in bfloat16 without noise (31 us at T =
// 16384, C = 2048 and 4.3 TB/s). The second reading of a row comes from the L2.
#include "cuda_impl/norm/rms_norm.hpp"

#include <algorithm>

#include "cuda_impl/gate/product.hpp"
#include "cuda_impl/token_blocks/warp_reduce.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kRowWarps = 8, kWeightThreads = 128;

struct RowArguments {
  const void *x, *noise, *weight;
  std::int64_t count;
  int dim;
  DataType x_type, weight_type, type;
  bool norm;
  float eps, factor;
};

RowArguments row_arguments(const NormedRows& r) {
  return {r.x,
          r.noise,
          r.weight,
          r.rows,
          r.width,
          r.x_type,
          r.weight_type,
          r.type,
          r.norm,
          static_cast<float>(r.eps),
          static_cast<float>(r.factor)};
}

__device__ float noise_at(const RowArguments& p, std::int64_t at) {
  return p.noise ? load_element<float>(p.noise, p.x_type, at) : 1.0f;
}
__device__ float seen_at(const RowArguments& p, std::int64_t at) {
  const float x = load_element<float>(p.x, p.x_type, at);
  return p.noise ? round_to(x * noise_at(p, at), p.x_type) : x;
}
__device__ float weight_at(const RowArguments& p, int i) {
  return load_element<float>(p.weight, p.weight_type, i);
}

/// 1 / sqrt(mean square + eps) from this lane's sum of squares. All lanes call it.
__device__ float inverse_root(const RowArguments& p, float squares) {
  return 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(p.dim) + p.eps);
}

__global__ void rows_kernel(const RowArguments p, void* h) {
  const int lane = threadIdx.x % 32;
  const std::int64_t t = blockIdx.x * std::int64_t{kRowWarps} + threadIdx.x / 32, row = t * p.dim;
  if (t >= p.count) return;
  float inverse = 1.0f;
  if (p.norm) {
    float squares = 0;
    for (int i = lane; i < p.dim; i += 32) {
      const float a = seen_at(p, row + i);
      squares += a * a;
    }
    inverse = inverse_root(p, squares);
  }
  for (int i = lane; i < p.dim; i += 32) {
    float v = seen_at(p, row + i);
    if (p.norm) v = round_to(v * inverse, p.x_type) * weight_at(p, i) * p.factor;
    store_element(h, p.type, row + i, v);
  }
}

/// With a = x n and e = dh w factor: da_i = r e_i - a_i r^3 / C sum_j e_j a_j, and dx = da n.
__global__ void rows_gradient_kernel(const RowArguments p, const void* dh, void* dx, bool add,
                                     float* inverse_roots) {
  const int lane = threadIdx.x % 32;
  const std::int64_t t = blockIdx.x * std::int64_t{kRowWarps} + threadIdx.x / 32, row = t * p.dim;
  if (t >= p.count) return;
  const auto by_normed = [&](int i) {
    const float d = load_element<float>(dh, p.type, row + i);
    return p.norm ? d * p.factor * weight_at(p, i) : d;
  };
  float inverse = 1.0f, through = 0.0f;
  if (p.norm) {
    float squares = 0, inner = 0;
    for (int i = lane; i < p.dim; i += 32) {
      const float a = seen_at(p, row + i);
      squares += a * a;
      inner += by_normed(i) * a;
    }
    inverse = inverse_root(p, squares);
    through = warp_sum(inner) * (inverse * inverse * inverse) / static_cast<float>(p.dim);
    if (lane == 0) inverse_roots[t] = inverse;
  }
  if (!dx) return;
  for (int i = lane; i < p.dim; i += 32) {
    float d = by_normed(i);
    if (p.norm) d = d * inverse - seen_at(p, row + i) * through;
    if (p.noise) d *= noise_at(p, row + i);
    if (add) d += load_element<float>(dx, p.x_type, row + i);
    store_element(dx, p.x_type, row + i, d);
  }
}

__global__ void weight_gradient_kernel(const RowArguments p, const void* dh, const float* inverse_roots,
                                       std::int64_t rows_per_part, float* parts) {
  const int i = blockIdx.x * kWeightThreads + threadIdx.x;
  if (i >= p.dim) return;
  const std::int64_t first = blockIdx.y * rows_per_part, last = min(first + rows_per_part, p.count);
  float sum = 0;
  for (std::int64_t t = first; t < last; ++t) {
    const std::int64_t at = t * p.dim + i;
    sum += load_element<float>(dh, p.type, at) * p.factor *
           round_to(seen_at(p, at) * inverse_roots[t], p.x_type);
  }
  parts[blockIdx.y * std::int64_t{p.dim} + i] = sum;
}

unsigned warp_blocks(const NormedRows& r) {
  return static_cast<unsigned>((r.rows + kRowWarps - 1) / kRowWarps);
}

}  // namespace

void make_normed_rows(const NormedRows& r, void* h, cudaStream_t stream) {
  if (r.rows == 0) return;
  rows_kernel<<<warp_blocks(r), 32 * kRowWarps, 0, stream>>>(row_arguments(r), h);
  check(cudaGetLastError(), "make_normed_rows");
}

void normed_rows_gradient(const NormedRows& r, const void* dh, void* dx, bool add, float* inverse_roots,
                          cudaStream_t stream) {
  if (r.rows == 0) return;
  rows_gradient_kernel<<<warp_blocks(r), 32 * kRowWarps, 0, stream>>>(row_arguments(r), dh, dx, add,
                                                                      inverse_roots);
  check(cudaGetLastError(), "normed_rows_gradient");
}

int norm_weight_parts(std::int64_t rows) {
  return static_cast<int>(std::clamp<std::int64_t>((rows + 31) / 32, 1, 128));
}

void norm_weight_gradient(const NormedRows& r, const void* dh, const float* inverse_roots, float* parts,
                          void* d_weight, cudaStream_t stream) {
  const int count = norm_weight_parts(r.rows);
  const dim3 grid(static_cast<unsigned>((r.width + kWeightThreads - 1) / kWeightThreads),
                  static_cast<unsigned>(count));
  weight_gradient_kernel<<<grid, kWeightThreads, 0, stream>>>(row_arguments(r), dh, inverse_roots,
                                                              (r.rows + count - 1) / count, parts);
  check(cudaGetLastError(), "norm_weight_gradient");
  sum_parts(parts, count, r.width, DataType::float32, r.weight_type, d_weight, stream);
}

}  // namespace moeref::cuda
