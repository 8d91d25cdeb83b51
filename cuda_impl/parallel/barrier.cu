// Meetings, and sums of short vectors: one block, so that a sum over the ranks is one launch. Every number is
// added in the order of the ranks, by one thread.
#include "cuda_impl/parallel/barrier.cuh"

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 1024;
static_assert(kThreads >= kMaxRanks);

struct Vectors {
  std::int64_t* integers;
  double* reals;
  int integer_count, real_count;
};

__device__ void write_parts(int size, const RankPointers& slots, const Vectors& v) {
  for (int p = 0; p < size; ++p) {
    auto* integers = static_cast<std::int64_t*>(slots.of[p]);
    auto* reals = static_cast<double*>(slots.of[p]) + v.integer_count;
    for (int i = threadIdx.x; i < v.integer_count; i += blockDim.x) integers[i] = v.integers[i];
    for (int i = threadIdx.x; i < v.real_count; i += blockDim.x) reals[i] = v.reals[i];
  }
}

__device__ void add_parts(int size, const void* received, const Vectors& v) {
  const auto* integers = static_cast<const std::int64_t*>(received);
  const auto* reals = static_cast<const double*>(received) + v.integer_count;
  for (int i = threadIdx.x; i < v.integer_count; i += blockDim.x) {
    std::int64_t sum = 0;
    for (int r = 0; r < size; ++r) sum += integers[r * Group::kMaxSum + i];
    v.integers[i] = sum;
  }
  for (int i = threadIdx.x; i < v.real_count; i += blockDim.x) {
    double sum = 0;
    for (int r = 0; r < size; ++r) sum += reals[r * Group::kMaxSum + i];
    v.reals[i] = sum;
  }
}

__global__ void find_overflow(const int* needed, int size, RoomFor what, long long room, RoomReport* report) {
  for (int p = 0; p < size; ++p)
    if (needed[p] > room) {
      *report = {p + 1, needed[p], room, what};
      __threadfence_system();
      return;
    }
}

__global__ void __launch_bounds__(kThreads) meet_alone(const Meeting meeting) { meet(meeting); }

__global__ void __launch_bounds__(kThreads)
    sum_meeting(const Meeting meeting, const RankPointers slots, const void* received, const Vectors v) {
  meet(meeting);  // the peers have read what was there
  write_parts(meeting.size, slots, v);
  // The flags are stored by other threads than the numbers.
  __threadfence_system();
  meet(meeting);
  add_parts(meeting.size, received, v);
}

__global__ void __launch_bounds__(kThreads) write_alone(int size, const RankPointers slots, const Vectors v) {
  write_parts(size, slots, v);
}
__global__ void __launch_bounds__(kThreads) add_alone(int size, const void* received, const Vectors v) {
  add_parts(size, received, v);
}

}  // namespace

void meet(const Meeting& meeting, cudaStream_t stream) {
  meet_alone<<<1, (meeting.size + 31) / 32 * 32, 0, stream>>>(meeting);
  check(cudaGetLastError(), "the meeting of a group");
}

void check_room(const int* needed, int size, RoomFor what, std::int64_t room, RoomReport* report,
                cudaStream_t stream) {
  find_overflow<<<1, 1, 0, stream>>>(needed, size, what, room, report);
  check(cudaGetLastError(), "check_room");
}

void sum_in_peer_memory(const Meeting& meeting, const RankPointers& slots, const void* received,
                        std::int64_t* integers, int integer_count, double* reals, int real_count,
                        cudaStream_t stream) {
  sum_meeting<<<1, kThreads, 0, stream>>>(meeting, slots, received,
                                          Vectors{integers, reals, integer_count, real_count});
  check(cudaGetLastError(), "the sum over a group");
}

void write_sum_parts(int size, const RankPointers& slots, const std::int64_t* integers, int integer_count,
                     const double* reals, int real_count, cudaStream_t stream) {
  write_alone<<<1, kThreads, 0, stream>>>(
      size, slots,
      Vectors{const_cast<std::int64_t*>(integers), const_cast<double*>(reals), integer_count, real_count});
  check(cudaGetLastError(), "the sum over a group");
}

void add_sum_parts(int size, const void* received, std::int64_t* integers, int integer_count, double* reals,
                   int real_count, cudaStream_t stream) {
  add_alone<<<1, kThreads, 0, stream>>>(size, received, Vectors{integers, reals, integer_count, real_count});
  check(cudaGetLastError(), "the sum over a group");
}

}  // namespace moeref::cuda
