// Who the ranks of a group are, and which of them can store into each other's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "moeref/cuda/bootstrap.hpp"

namespace moeref::cuda {

enum class Reach : char {
  none,      // over NCCL alone
  process,   // a thread of this process: its pointers are ours
  same_host  // another process: through a CUDA IPC handle
};

/// From this rank to every rank, agreed with that rank; the own entry is `process`. Enables peer access of
/// the current device. Collective.
std::vector<Reach> reach_of_peers(Bootstrap& bootstrap);

/// Whether all ranks are threads of one process. Collective.
bool all_are_threads(Bootstrap& bootstrap);

/// Memory of every rank, as this process may use it.
struct PeerMemory {
  std::vector<char*> of;          // null where out of reach
  std::vector<void*> to_release;  // opened handles
};
/// Every rank gives its own, from cudaMalloc. Collective.
PeerMemory map_peers(Bootstrap& bootstrap, const std::vector<Reach>& reach, char* mine);

}  // namespace moeref::cuda
