// Who the ranks of a group are, and which of them can store into each other's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "moeref/cuda/bootstrap.hpp"

namespace moeref::cuda {

enum class Reach : char {
  none,      // over NCCL alone
  process,   // a thread of this process: its pointers are ours
  same_host  // another process: through a CUDA IPC handle
};

/// How the ranks lie in processes.
enum class Placement {
  threads,    // all in one process
  processes,  // each in one of its own
  mixed       // several in one process, others elsewhere
};

struct Peers {
  // From this rank to every rank, the same from there; the own entry is `process`.
  std::vector<Reach> reach;
  Placement placement = Placement::processes;
};

/// Enables peer access of the current device, and tries whether handles of other processes can be opened:
/// containers of one host may hide memory from each other. `group` is its name in messages. Collective.
Peers find_peers(Bootstrap& bootstrap, const std::string& group);

/// Memory of every rank, as this process may use it.
struct PeerMemory {
  std::vector<char*> of;          // null where out of reach
  std::vector<void*> to_release;  // opened handles
};
/// Every rank gives its own, from cudaMalloc. Where a rank cannot open a handle none has any open
/// afterwards, and all throw. Collective.
PeerMemory map_peers(Bootstrap& bootstrap, const std::string& group, const std::vector<Reach>& reach,
                     char* mine);

}  // namespace moeref::cuda
