// Integer sums in fixed orders. Floor: three small launches; the numbers of 64 ranks are 32 KiB.
#include "cuda_impl/expert_parallel/packed_places.hpp"

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 256;

/// Sums of counts and of work over the segments, to all ranks. A warp per number.
__global__ void __launch_bounds__(kThreads)
    sum_to_all(int ranks, int segments, const int* counts, const int* work, const RankPointers told) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = warp; i < 2 * ranks; i += (kThreads / 32)) {
    const int* const of = i < ranks ? counts + i : work + i - ranks;
    int sum = 0;
    for (int segment = lane; segment < segments; segment += 32) sum += of[std::int64_t{segment} * ranks];
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    for (int p = lane; p < ranks; p += 32) static_cast<int*>(told.of[p])[i] = sum;
  }
}

/// One thread per rank.
__global__ void __launch_bounds__(kMaxRanks)
    place_packed(const int* told, int n, int me, unsigned long long reached, const PackedRoom room,
                 const PackedPlaces out) {
  const int p = static_cast<int>(threadIdx.x);
  __shared__ int overflows;
  const auto rows = [&](int from, int to) { return told[2 * n * from + to]; };
  if (p == 0) overflows = 0;
  __syncthreads();
  if (p < n) {
    int work = 0, arrive = 0, come_back = 0;
    for (int q = 0; q < n; ++q) {
      work += told[2 * n * q + n + p];
      arrive += rows(q, p);
      come_back += rows(p, q);
    }
    out.rows_needed[p] = work;
    out.token_rows_needed[p] = max(arrive, come_back);
    if (work > room.rows || arrive > room.arrivals || come_back > room.returns) overflows = 1;
  }
  __syncthreads();
  if (p >= n) return;
  int there = 0, home = 0, in = 0, back = 0;
  for (int q = 0; q < me; ++q) there += rows(q, p), home += rows(p, q);
  for (int q = 0; q < p; ++q) in += rows(q, me), back += rows(me, q);
  const bool fits = overflows == 0, meets = (reached >> p & 1) != 0;
  const RowPlaces& at = out.rows;
  at.sent[p] = fits ? rows(me, p) : 0;
  at.arrived[p] = fits ? rows(p, me) : 0;
  at.out[p] = !fits ? 0 : meets ? there : back;
  at.home[p] = !fits ? 0 : meets ? home : in;
  at.laid[p] = !fits ? 0 : p == me ? home : in;
  at.in[p] = fits ? in : 0;
  at.back[p] = fits ? back : 0;
}

/// No expert from row in[n - 1] + arrived[n - 1] on.
__global__ void __launch_bounds__(kThreads)
    clear_behind(const RowPlaces at, int ranks, std::int64_t room, int slots, int* ids) {
  const std::int64_t end = std::int64_t{at.in[ranks - 1]} + at.arrived[ranks - 1];
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < room * slots && i >= end * slots) ids[i] = -1;
}

}  // namespace

void tell_totals(int ranks, int segments, const int* counts, const int* work, const RankPointers& told,
                 cudaStream_t stream) {
  sum_to_all<<<1, kThreads, 0, stream>>>(ranks, segments, counts, work, told);
  check(cudaGetLastError(), "tell_totals");
}

void place_packed_rows(const int* told, int ranks, int rank, unsigned long long reached,
                       const PackedRoom& room, const PackedPlaces& out, cudaStream_t stream) {
  place_packed<<<1, kMaxRanks, 0, stream>>>(told, ranks, rank, reached, room, out);
  check(cudaGetLastError(), "place_packed_rows");
}

void no_expert_behind(const RowPlaces& at, int ranks, std::int64_t room, int slots, int* ids,
                      cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((room * slots + kThreads - 1) / kThreads);
  if (blocks == 0) return;
  clear_behind<<<blocks, kThreads, 0, stream>>>(at, ranks, room, slots, ids);
  check(cudaGetLastError(), "no_expert_behind");
}

}  // namespace moeref::cuda
