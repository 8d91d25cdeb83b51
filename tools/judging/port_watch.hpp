// A port under the property suite: what it does instead of answering is noted, and a port that hangs is asked
// once.
#pragma once

#include <utility>

#include "moeref/implementation.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

class PortWatch final : public Implementation {
 public:
  explicit PortWatch(Implementation& port) : port_(port) {}

  std::string name() const override { return port_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override { return port_.unsupported(call); }

  /// Throws NotSupported where the port says so only now. After a call that hung every other one is
  /// discarded, until take(): shrinking would wait for each of them.
  NamedTensors run(const Call& call) override;

  /// The worst that happened since the last call of this function: PASS, CRASHED or HUNG.
  Verdict take() { return std::exchange(worst_, Verdict::pass); }

 private:
  Implementation& port_;
  Verdict worst_ = Verdict::pass;
};

}  // namespace moeref
