// Dispatch and combine alone, beside what a copy engine and NCCL make of the same bytes.
#pragma once

#include <cstdint>

#include "moeref/cuda/expert_parallel.hpp"
#include "tools/bench/cuda/parallel_clock.hpp"

namespace moeref::cuda::bench {

/// Rows of one rank: which ones go where follows from ids and weights [T, k].
struct ExchangeInput {
  const void* x;  // [T, D]
  const int* ids;
  const float* weights;
};

struct ExchangeTimes {
  double sent_mib;  // in rows to other ranks, of the rank that sends most
  double dispatch_ms, combine_ms;
  /// GB/s to the peers.
  double rate(double ms) const { return ms > 0 ? sent_mib * 1.048576 / ms : 0; }
};

/// dispatch: plan, rows to the ranks, meeting. combine: sums to the ranks, meeting, sum of what came.
/// In a CUDA graph of `in_graph` times each, or, with 0, queued by the host. Collective.
ExchangeTimes time_exchange(const ExpertParallelConfig& config, const ExchangeInput& input,
                            ParallelClock& clock, int in_graph);

/// Milliseconds in which a copy of `bytes` to the next rank, by every rank at once, is there; 0 where no copy
/// reaches it.
double time_copy(std::size_t bytes, ParallelClock& clock, int in_graph);

/// Milliseconds of sends and receives of `bytes` with every other rank over NCCL; 0 where there is none, or
/// ranks share a device.
double time_nccl(std::size_t bytes, ParallelClock& clock, int in_graph);

/// One row of the table by message size.
struct MessageTimes {
  double mib;  // to each peer
  ExchangeTimes exchange;
  double copy_ms, nccl_ms;
};
/// Rows of `dim` bf16 numbers; every token goes to every rank.
MessageTimes time_message(double mib, int dim, ParallelClock& clock);

}  // namespace moeref::cuda::bench
