// Ranks that find each other through the exchange of the port interface (moeref/port.h).
#pragma once

#include "moeref/cuda/bootstrap.hpp"
#include "moeref/port.h"

namespace moeref::cuda {

/// For the time of one run(). After a failed exchange every function fails: the suite has told the others.
class ExchangeBootstrap final : public Bootstrap {
 public:
  explicit ExchangeBootstrap(const moeref_exchange& exchange) : exchange_(exchange) {}
  int rank() const override { return exchange_.rank; }
  int size() const override { return exchange_.world_size; }
  using Bootstrap::all_gather;
  void all_gather(const void* mine, std::size_t bytes, void* all) override;
  /// Calls of a port have one set of ranks: throws GroupError.
  std::shared_ptr<Bootstrap> split(int color, int key) override;
  /// The others notice when this rank leaves its run().
  void abort(const char* why) noexcept override;
  bool leave() noexcept override;

 private:
  const moeref_exchange& exchange_;
  bool given_up_ = false;
};

}  // namespace moeref::cuda
