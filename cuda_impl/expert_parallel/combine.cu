// The gather-sums of permutation/add_rows.cuh, a block per row. On the way to the ranks neighbouring blocks
// serve different ones, each rank beginning with its next, so that the links and this device's memory, where
// the own rows go, are busy together; where there is room for many rows a block has several, since most of
// that room is empty and a block that finds nothing takes time, too. Floor: rows read at copy bandwidth while
// sums are stored over one direction of the links; then as many read here.
#include "cuda_impl/expert_parallel/combine.hpp"

#include "cuda_impl/permutation/add_rows.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr std::int64_t kManyRows = 1 << 14;

template <class T, int N, int InFlight>
__global__ void to_ranks(const ReceivedRows in, int slots, const RankPlace place, const RowRange range,
                         int rows_a_block, const RowsToRanks to, const float* d_weights,
                         const RankPointers weights_to) {
  const int rank = static_cast<int>((place.rank + 1 + blockIdx.x % place.ranks) % place.ranks);
  const std::int64_t begin = range.first + std::int64_t{blockIdx.x / place.ranks} * rows_a_block,
                     end = min(min(begin + rows_a_block, range.first + range.count),
                               std::int64_t{in.counts[rank]});
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t token = in.begin[rank] + i, row = to.begin[rank] + i;
    const int* mine = in.slot_row + token * slots;
    T* out = static_cast<T*>(to.of.of[rank]) + row * in.width;
    for (int c = threadIdx.x * N; c < in.width; c += blockDim.x * N) {
      float sum[N] = {};
      add_rows<InFlight>(
          static_cast<const T*>(in.rows), in.width, slots, c, [&](int j) { return std::int64_t{mine[j]}; },
          sum);
      store<N>(out + c, sum);
    }
    if (d_weights != nullptr)
      for (int j = threadIdx.x; j < slots; j += blockDim.x)
        static_cast<float*>(weights_to.of[rank])[row * slots + j] = d_weights[token * slots + j];
  }
}

template <class T, int N, bool WithInput, int InFlight>
__global__ void sum_ranks(const ReturnedRows in, int ranks, T* out, const InputSlots input) {
  const std::int64_t token = blockIdx.x;
  const int* place = in.place + token * ranks;
  for (int c = threadIdx.x * N; c < in.width; c += blockDim.x * N) {
    float sum[N] = {};
    add_rows<InFlight>(
        static_cast<const T*>(in.rows), in.width, ranks, c,
        [&](int p) { return place[p] < 0 ? std::int64_t{-1} : std::int64_t{in.begin[p]} + place[p]; }, sum);
    if constexpr (WithInput) add_input<T>(input, token, in.width, c, sum);
    store<N>(out + token * in.width + c, sum);
  }
}

__global__ void store_to_all(const int* number, int ranks, const RankPointers to) {
  for (int p = threadIdx.x; p < ranks; p += blockDim.x) *static_cast<int*>(to.of[p]) = *number;
}

__global__ void gather_weights(const int* place, const int* begin, const float* returned, const int* ids,
                               const std::uint8_t* token_mask, std::int64_t total, int slots, int ranks,
                               int own_experts, float* out) {
  const std::int64_t slot = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (slot >= total) return;
  const std::int64_t token = slot / slots;
  const int id = ids[slot];
  float d = 0;
  if (id >= 0 && id < own_experts * ranks && (token_mask == nullptr || token_mask[token] != 0)) {
    const int rank = id / own_experts, row = place[token * ranks + rank];
    if (row >= 0) d = returned[(std::int64_t{begin[rank]} + row) * slots + slot % slots];
  }
  out[slot] = d;
}

bool in_eights(int width, const void* rows, const RankPointers& to, int ranks) {
  bool aligned = cuda::in_eights(width, rows);
  for (int p = 0; p < ranks; ++p) aligned = aligned && cuda::in_eights(width, to.of[p]);
  return aligned;
}

}  // namespace

void to_all_ranks(const int* number, int ranks, const RankPointers& to, cudaStream_t stream) {
  store_to_all<<<1, kMaxRanks, 0, stream>>>(number, ranks, to);
  check(cudaGetLastError(), "to_all_ranks");
}

void combine_to_ranks(const ReceivedRows& in, int slots, RankPlace place, RowRange range,
                      const RowsToRanks& to, const float* d_weights, const RankPointers& weights_to,
                      cudaStream_t stream) {
  if (range.count == 0) return;
  const bool eights = in_eights(in.width, in.rows, to.of, place.ranks);
  // One where there are few, which several blocks shall share.
  const int rows_a_block = range.count * place.ranks > kManyRows ? 4 : 1;
  const auto blocks = static_cast<unsigned>((range.count + rows_a_block - 1) / rows_a_block * place.ranks);
  with_type(in.dtype, [&]<class T>() {
    with_rows_in_flight(slots, [&]<int InFlight>() {
      const auto kernel = eights ? to_ranks<T, 8, InFlight> : to_ranks<T, 1, InFlight>;
      kernel<<<blocks, add_rows_threads(in.width, eights), 0, stream>>>(in, slots, place, range, rows_a_block,
                                                                        to, d_weights, weights_to);
    });
  });
  check(cudaGetLastError(), "combine_to_ranks");
}

void sum_returned(const ReturnedRows& in, std::int64_t tokens, int ranks, void* out, cudaStream_t stream,
                  const InputSlots& input) {
  if (tokens == 0) return;
  const bool eights = cuda::in_eights(in.width, in.rows, out);
  with_type(in.dtype, [&]<class T>() {
    with_sums_of(ranks, input, [&]<bool WithInput, int InFlight>() {
      const auto kernel =
          eights ? sum_ranks<T, 8, WithInput, InFlight> : sum_ranks<T, 1, WithInput, InFlight>;
      kernel<<<static_cast<unsigned>(tokens), add_rows_threads(in.width, eights), 0, stream>>>(
          in, ranks, static_cast<T*>(out), input);
    });
  });
  check(cudaGetLastError(), "sum_returned");
}

void gather_weight_gradients(const int* place, const int* begin, const float* returned, const int* ids,
                             const std::uint8_t* token_mask, std::int64_t tokens, int slots, int ranks,
                             int own_experts, float* out, cudaStream_t stream) {
  const std::int64_t total = tokens * slots;
  if (total == 0) return;
  gather_weights<<<static_cast<unsigned>((total + 255) / 256), 256, 0, stream>>>(
      place, begin, returned, ids, token_mask, total, slots, ranks, own_experts, out);
  check(cudaGetLastError(), "gather_weight_gradients");
}

}  // namespace moeref::cuda
