#include "tools/own_ports/cuda/exchange_bootstrap.hpp"

namespace moeref::cuda {

void ExchangeBootstrap::all_gather(const void* mine, std::size_t bytes, void* all) {
  if (given_up_) throw GroupError("this rank has given up");
  if (exchange_.all_gather(exchange_.context, mine, bytes, all) != MOEREF_OK)
    throw GroupError("an exchange with the other ranks failed");
}

std::shared_ptr<Bootstrap> ExchangeBootstrap::split(int, int) {
  throw GroupError("the ranks of a call are not divided further");
}

void ExchangeBootstrap::abort(const char*) noexcept { given_up_ = true; }

/// A rank that gave up does not wait: its peers' exchanges fail when it leaves its run(), and so would this.
bool ExchangeBootstrap::leave() noexcept {
  return !given_up_ && exchange_.all_gather(exchange_.context, nullptr, 0, nullptr) == MOEREF_OK;
}

}  // namespace moeref::cuda
