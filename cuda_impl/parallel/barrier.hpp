// What a meeting of the ranks on the device needs; see barrier.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/group.hpp"

namespace moeref::cuda {

constexpr unsigned long long kAborted = ~0ull;  // the flag of a rank that goes on no more

struct Meeting {
  int rank, size;
  unsigned long long* theirs[kMaxRanks];  // flags [size] of each rank; null: it is not met on the device
  unsigned long long* mine;               // flags [size]
  unsigned long long* number;             // of meetings so far
  int* broken;                            // not 0 once a peer did not come
  int* failure;                           // for the host: 0, p + 1 if peer p is late, -(p + 1) if it aborted
  unsigned long long limit_ns;
};

void meet(const Meeting& meeting, cudaStream_t stream);

/// Pinned, for the host: the first rank with more rows than it has room for.
struct RoomReport {
  int rank_and_one, needed;  // 0: none
  long long room;
  RoomFor what;
};
/// needed [size]: what each rank has.
void check_room(const int* needed, int size, RoomFor what, std::int64_t room, RoomReport* report,
                cudaStream_t stream);

/// Group::sum where all ranks are met on the device: both meetings and the sum in one launch. Slots of
/// kMaxSum 8-byte numbers.
void sum_in_peer_memory(const Meeting& meeting, const RankPointers& slots, const void* received,
                        std::int64_t* integers, int integer_count, double* reals, int real_count,
                        cudaStream_t stream);
/// Its two halves, for other transports.
void write_sum_parts(int size, const RankPointers& slots, const std::int64_t* integers, int integer_count,
                     const double* reals, int real_count, cudaStream_t stream);
void add_sum_parts(int size, const void* received, std::int64_t* integers, int integer_count, double* reals,
                   int real_count, cudaStream_t stream);

}  // namespace moeref::cuda
