// The gather-sum of add_rows.cuh, one block per token.
// Floor: (R + T) * dim * 2 bytes at copy bandwidth; at qwen3_30b 0.60 GB, 0.14 ms.
#include "cuda_impl/permutation/unpermute.hpp"

#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/permutation/add_rows.cuh"

namespace moeref::cuda {
namespace {

template <class T, int N, bool WithInput, int InFlight>
__global__ void gather_sum(const T* rows, const int* slot_row, int slots, int dim, T* out,
                           const InputSlots input) {
  wait_for_earlier_kernels();
  const std::int64_t token = blockIdx.x;
  const int* mine = slot_row + token * slots;
  for (int c = threadIdx.x * N; c < dim; c += blockDim.x * N) {
    float sum[N] = {};
    add_rows<InFlight>(
        rows, dim, slots, c, [&](int j) { return std::int64_t{mine[j]}; }, sum);
    if constexpr (WithInput) add_input<T>(input, token, dim, c, sum);
    store<N>(out + token * dim + c, sum);
  }
}

}  // namespace

void unpermute(DataType dtype, const void* rows, const int* slot_row, std::int64_t tokens, int slots, int dim,
               void* out, cudaStream_t stream, const InputSlots& input) {
  if (tokens == 0) return;
  with_type(dtype, [&]<class T>() {
    const bool eights = in_eights(dim, rows, out);
    with_sums_of(slots, input, [&]<bool WithInput, int InFlight>() {
      const LaunchShape shape{static_cast<unsigned>(tokens),
                              static_cast<unsigned>(add_rows_threads(dim, eights)), 0, stream};
      const auto launch = [&]<int N>() {
        launch_overlapped<gather_sum<T, N, WithInput, InFlight>>("unpermute", shape,
                                                                 static_cast<const T*>(rows), slot_row, slots,
                                                                 dim, static_cast<T*>(out), input);
      };
      if (eights)
        launch.template operator()<8>();
      else
        launch.template operator()<1>();
    });
  });
}

}  // namespace moeref::cuda
