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

template <class Unit>
void launch(const void* tokens, const int* slot_row, const PeriodicTokens& which, int slots, int width,
            void* rows, cudaStream_t stream) {
  const int threads = std::min(512, (width + 31) / 32 * 32);
  const dim3 grid(static_cast<unsigned>(which.range.count),
                  static_cast<unsigned>(which.count / which.period));
  launch_overlapped<copy_to_rows<Unit>>("permute", {grid, static_cast<unsigned>(threads), 0, stream},
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

}  // namespace moeref::cuda
