// Which passes of NCCL the device is in: the limit for a peer that does not come is counted in these alone,
// and not in the kernels that come before them on the stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace moeref::cuda {

class NcclPasses {
 public:
  NcclPasses() = default;
  NcclPasses(const NcclPasses&) = delete;
  ~NcclPasses();

  /// Around a pass on the stream. Under capture nothing is recorded: such a pass runs with each launch of its
  /// graph, where no event of ours can be asked for.
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream);

  /// The pass that has begun on the device and has not ended, as a number that no other pass has.
  std::optional<std::uint64_t> under_way();
  /// None has still to end.
  bool all_ended();
  bool any_captured() const { return captured_; }

 private:
  struct Pass {
    cudaEvent_t begin, end;
  };
  cudaEvent_t take_event();
  void drop_ended();

  std::deque<Pass> pending_;  // in the order of their calls
  std::vector<cudaEvent_t> idle_;
  std::uint64_t ended_ = 0;
  cudaEvent_t begun_ = nullptr;  // between begin and end
  bool captured_ = false;
};

}  // namespace moeref::cuda
