// The part of NCCL that a group needs: bytes to and from peers whose memory is out of reach.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "moeref/cuda/bootstrap.hpp"

namespace moeref::cuda {

class NcclLink {
 public:
  /// Collective over all ranks, each on a device of its own. Throws GroupError on all of them where one
  /// fails, also where moeref was built without NCCL. `group` is its name in messages.
  static std::unique_ptr<NcclLink> create(Bootstrap& bootstrap, const std::string& group);
  virtual ~NcclLink() = default;

  /// Sends and receives between begin and end go together and in any order.
  virtual void begin() = 0;
  virtual void send(const void* data, std::size_t bytes, int peer, cudaStream_t stream) = 0;
  virtual void receive(void* data, std::size_t bytes, int peer, cudaStream_t stream) = 0;
  virtual void end() = 0;

  /// What went wrong in the background, or nothing.
  virtual std::string failure() = 0;
  /// Ends what is under way; the link is of no more use.
  virtual void abort() noexcept = 0;
};

}  // namespace moeref::cuda
