// An implementation that plays all ranks in one process, behind the port interface for several processes:
// every rank gathers the whole call, computes it and gives its own part. No faster than one process, and the
// plainest thing that is right.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moeref/implementation.hpp"
#include "moeref/port.h"

namespace moeref {

/// run() of such a port, for any number of processes. Nothing is thrown.
std::int32_t run_ranks_with(Implementation& implementation, const moeref_call* call, char* error,
                            std::size_t size);

}  // namespace moeref
