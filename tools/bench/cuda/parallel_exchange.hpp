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
  double plan_ms, dispatch_ms, combine_ms;
};

/// plan: which rows go where, ids and weights on their way. dispatch: plan, rows to the ranks, meeting.
/// combine: sums to the ranks, meeting, sum of what came. In a CUDA graph of `in_graph` times each, or, with
/// 0, queued by the host. Collective.
ExchangeTimes time_exchange(const ExpertParallelConfig& config, const ExchangeInput& input,
                            ParallelClock& clock, int in_graph);

/// Milliseconds in which a copy of `bytes` to the next rank, by every rank that `sends` at once, is there; 0
/// where no copy reaches it. Collective.
double time_copy(std::size_t bytes, bool sends, ParallelClock& clock, int in_graph);

/// Milliseconds in which the first `senders` ranks have sent `bytes` to every other rank over NCCL; 0 where
/// there is none, or ranks share a device. Collective.
double time_nccl(std::size_t bytes, int senders, ParallelClock& clock, int in_graph);

/// One row of the table by message size.
struct MessageTimes {
  double mib;  // to each peer
  ExchangeTimes exchange;
  double copy_ms, nccl_ms;
};
/// Rows of `dim` bf16 numbers on the first `senders` ranks; every token goes to every rank.
MessageTimes time_message(double mib, int dim, int senders, ParallelClock& clock);

}  // namespace moeref::cuda::bench
