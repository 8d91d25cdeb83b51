// Streams and graphs of the emulated runtime: a stream runs what it is given at once, or keeps it for a
// graph.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "cuda_runtime_api.h"

struct CUgraph_st {
  std::vector<std::function<bool()>> work;  // whether it went well
  std::vector<cudaStream_t> joined;         // beside the one that is captured, until its end
};
struct CUgraphExec_st : CUgraph_st {};
struct CUstream_st {
  CUgraph_st* captures = nullptr;
  // Its work has run, and looks to the program as if it ran until then.
  std::chrono::steady_clock::time_point busy_until;
};

struct CUevent_st {
  std::chrono::steady_clock::time_point at;  // when what came before it had ended
  CUgraph_st* captured = nullptr;            // where it was recorded last
};

namespace emulated {

/// Runs the work, or has the stream's capture keep it.
void enqueue(cudaStream_t stream, std::function<bool()> work);
/// What cudaGetLastError returns next; a failed launch stays.
void set_error(cudaError_t error);
/// The same for a call that failed, and what it returns.
inline cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess) set_error(error);
  return error;
}
/// From here on the calling thread's launches find no kernel, as in a build for other architectures.
void lose_kernels(bool lost);

}  // namespace emulated
