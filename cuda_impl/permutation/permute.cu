// One block per token, 16 bytes per thread; one element per thread where the rows' width or address does not
// allow sixteen bytes. Each token is read once and written once a slot. Floor: (R + T) * dim * size bytes at
// copy bandwidth; at qwen3_30b 0.60 GB, 0.14 ms.
#include "cuda_impl/permutation/permute.hpp"

#include <algorithm>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"

namespace moeref::cuda {
namespace {

template <class Unit>
__global__ void copy_to_rows(const Unit* tokens, const int* slot_row, std::int64_t first, std::int64_t period,
                             int slots, int width, Unit* rows) {
  wait_for_earlier_kernels();
  const std::int64_t token = blockIdx.y * period + first + blockIdx.x;
  const int* mine = slot_row + token * slots;
  bool any = false;
  for (int j = 0; j < slots; ++j) any = any || mine[j] >= 0;
  if (!any) return;
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    const Unit value = tokens[token * width + c];
    for (int first_slot = 0; first_slot < slots; first_slot += 8) {
      int row[8];  // all loads come before the stores, which might alias them
#pragma unroll
      for (int j = 0; j < 8; ++j) row[j] = first_slot + j < slots ? mine[first_slot + j] : -1;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (row[j] >= 0) rows[std::int64_t{row[j]} * width + c] = value;
    }
  }
}

template <class T, int N>
__global__ void copy_weighted(const T* tokens, const float* weights, const int* slot_row, std::int64_t first,
                              std::int64_t period, int slots, int dim, T* rows, float* row_weight) {
  wait_for_earlier_kernels();
  const std::int64_t token = blockIdx.y * period + first + blockIdx.x;
  for (int j = 0; j < slots; ++j) {
    const std::int64_t row = slot_row[token * slots + j];
    if (row < 0) continue;
    const float weight = weights[token * slots + j];
    for (int c = threadIdx.x * N; c < dim; c += blockDim.x * N) {
      float value[N];
      load<N>(tokens + token * dim + c, value);
#pragma unroll
      for (int i = 0; i < N; ++i) value[i] *= weight;
      store<N>(rows + row * dim + c, value);
    }
    if (threadIdx.x == 0) row_weight[row] = 1.0f;
  }
}

dim3 grid_of(const PeriodicTokens& which) {
  return {static_cast<unsigned>(which.range.count), static_cast<unsigned>(which.count / which.period), 1};
}

template <class Unit>
void launch(const void* tokens, const int* slot_row, const PeriodicTokens& which, int slots, int width,
            void* rows, cudaStream_t stream) {
  const int threads = std::min(512, (width + 31) / 32 * 32);
  launch_overlapped<copy_to_rows<Unit>>("permute",
                                        {grid_of(which), static_cast<unsigned>(threads), 0, stream},
                                        static_cast<const Unit*>(tokens), slot_row, which.range.first,
                                        which.period, slots, width, static_cast<Unit*>(rows));
}

}  // namespace

void permute(DataType dtype, const void* tokens, const int* slot_row, const PeriodicTokens& which, int slots,
             int dim, void* rows, cudaStream_t stream) {
  if (which.count == 0 || which.range.count == 0) return;
  if (in_eights(dim, tokens, rows)) {
    const int width = dim / 8 * static_cast<int>(bytes_of(dtype)) / 2;
    launch<uint4>(tokens, slot_row, which, slots, width, rows, stream);
  } else if (bytes_of(dtype) == 2) {
    launch<std::uint16_t>(tokens, slot_row, which, slots, dim, rows, stream);
  } else {
    launch<std::uint32_t>(tokens, slot_row, which, slots, dim, rows, stream);
  }
}

void permute_weighted(DataType dtype, const void* tokens, const float* weights, const int* slot_row,
                      const PeriodicTokens& which, int slots, int dim, void* rows, float* row_weight,
                      cudaStream_t stream) {
  if (which.count == 0 || which.range.count == 0) return;
  with_type(dtype, [&]<class T>() {
    const bool eights = in_eights(dim, tokens, rows);
    const int units = eights ? dim / 8 : dim;
    const LaunchShape shape{grid_of(which), static_cast<unsigned>(std::min(512, (units + 31) / 32 * 32)), 0,
                            stream};
    const auto run = [&]<int N>() {
      launch_overlapped<copy_weighted<T, N>>("permute_weighted", shape, static_cast<const T*>(tokens),
                                             weights, slot_row, which.range.first, which.period, slots, dim,
                                             static_cast<T*>(rows), row_weight);
    };
    if (eights)
      run.template operator()<8>();
    else
      run.template operator()<1>();
  });
}

}  // namespace moeref::cuda
