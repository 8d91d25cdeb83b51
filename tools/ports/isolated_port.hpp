// What all ports in processes of their own share: every call is made twice, and what differs is put down to
// earlier calls, to what the buffers held, or to no reason at all.
#pragma once

#include "reference_cpu/call/rank_shares.hpp"
#include "tools/port_abi/call_block.hpp"
#include "tools/ports/port.hpp"
#include "tools/ports/rank_outcomes.hpp"
#include "tools/ports/tensor_difference.hpp"

namespace moeref {

class IsolatedPort : public Port {
 public:
  const Capabilities* capabilities() const override { return &capabilities_; }
  PortOutcome run(const std::filesystem::path& golden_file, const Call& call) override;
  std::optional<NamedTensors> run_fresh(const Call& call) override;

 protected:
  /// One call, by one process per rank, which are started where there are none. Afterwards they run and can
  /// be called again, or have been ended. An outcome for each rank.
  virtual RankOutcomes attempt(const RankShares& ranks, Poison poison) = 0;

  /// Ends the processes; the next attempt starts others.
  virtual void end_processes() = 0;

  Capabilities capabilities_;  // passed in at construction

 private:
  RankShares shares(const Call& call) const;
  RankOutcomes attempt_fresh(const RankShares& ranks, Poison poison);
  std::string cause_of_difference(const RankShares& ranks, std::size_t rank, const std::string& difference);
  void compare(const RankShares& ranks, std::size_t rank, PortOutcome& first, PortOutcome& second) const;
};

}  // namespace moeref
