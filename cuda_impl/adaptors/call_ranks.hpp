// The ranks that make a call together (SPEC.md 8), as one of them sees them: threads of this process or
// processes, on devices of their own or, where there are fewer devices than ranks, sharing them.
#pragma once

#include <cstdint>
#include <memory>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/expert_parallel.hpp"
#include "moeref/implementation.hpp"

namespace moeref::cuda {

struct CallRanks {
  std::shared_ptr<Bootstrap> bootstrap;
  std::shared_ptr<Group> group;

  /// The most tokens of any rank.
  std::int64_t max_tokens(std::int64_t own) const;
  /// Of this rank's parts, those of results that every rank has whole become totals: the expert load and the
  /// gradients of parameters that all ranks hold. Added on the host in fp64 in the order of the ranks,
  /// rounded once: what data-parallel training does with its gradients is not the layer's.
  void add_up(const Call& share, NamedTensors& results) const;
};

/// How the routed experts of a call are computed: by this rank alone, or with those of the others.
struct ExpertsSpread {
  int ranks = 1;
  std::int64_t max_tokens = 0;
  Exchange exchange = Exchange::all_to_all;
  int chunks = 1;  // several of more than two ranks, so that both ways are judged
  Window kept, transient;
  Group* group = nullptr;  // null alone

  /// Makes the windows; collective.
  ExpertsSpread(const ExpertsConfig& config, const CallOptions& options, const CallRanks* ranks);
  explicit operator bool() const { return group != nullptr; }
  ExpertParallelConfig config(const ExpertsConfig& experts) const {
    return {experts, ranks, max_tokens, exchange, chunks};
  }
  ExpertParallelWindows windows() const { return {&kept, &transient}; }
};

/// The ranks of a call, 1 for most.
std::int64_t ranks_of(const Call& call);

/// A rank's part of a call, from its share, on the current device. Collective.
NamedTensors run_together(const Call& share, const std::shared_ptr<Bootstrap>& bootstrap,
                          const DeviceOptions& options, NamedTensors (*run)(const Call&, DeviceContext&));

/// The whole call from what its ranks, threads of this process, make of their shares. Throws what ended the
/// first rank that failed.
NamedTensors run_on_ranks(const Call& call, const DeviceOptions& options,
                          NamedTensors (*run)(const Call&, DeviceContext&));

}  // namespace moeref::cuda
