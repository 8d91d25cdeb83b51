// A request of the host's socket as a call of the port interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moeref/port.h"

namespace moeref {

/// Owns what a moeref_call points to, for the time of the call.
class HostedCall {
 public:
  /// Without an exchange the process makes the call alone.
  HostedCall(const nlohmann::json& request, std::byte* block, DLDevice device, void* stream,
             const moeref_exchange* exchange);
  HostedCall(const HostedCall&) = delete;
  HostedCall& operator=(const HostedCall&) = delete;

  /// Asks supports(), then run(); the host's answer.
  nlohmann::json make(const moeref_port& port) const;

 private:
  std::list<std::string> texts_;  // their places stay
  std::list<std::vector<std::int64_t>> shapes_;
  std::vector<moeref_named_tensor> inputs_, outputs_;
  moeref_call call_{};
};

}  // namespace moeref
