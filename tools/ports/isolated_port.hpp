// What all ports in a process of their own share: every call is made twice, and what differs is put down to
// earlier calls, to what the buffers held, or to no reason at all.
#pragma once

#include "port_abi/call_block.hpp"
#include "port_abi/call_tensors.hpp"
#include "ports/port.hpp"

namespace moeref {

class IsolatedPort : public Port {
 public:
  const Capabilities* capabilities() const override { return &capabilities_; }
  PortOutcome run(const std::filesystem::path& golden_file, const Call& call) override;
  std::optional<NamedTensors> run_fresh(const Call& call) override;

 protected:
  /// One call in the running process, which is started where there is none. Afterwards the process runs and
  /// can be called again, or has been ended.
  virtual PortOutcome attempt(const Call& call, Poison poison) = 0;

  /// Ends the process; the next attempt starts one.
  virtual void end_process() = 0;

  Capabilities capabilities_;  // from whoever opened it

 private:
  PortOutcome attempt_fresh(const Call& call, Poison poison);
  std::string cause_of_difference(const Call& call, const std::string& difference);
};

/// The worse verdict, and the line beside what was found before.
void add_finding(PortOutcome& outcome, Verdict verdict, const std::string& finding);

/// "outputs/y[3, 0] is 1.5 and 1.25" for the first element whose bits differ; NaN is NaN whatever its bits.
/// Nothing where all are the same.
std::optional<std::string> differing_results(const NamedTensors& a, const NamedTensors& b);

}  // namespace moeref
