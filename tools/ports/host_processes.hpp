// The processes that have loaded a port's library and make calls together: one alone, or one per rank, each
// connected with every other (port_host/port_host.hpp).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "reference_cpu/call/rank_shares.hpp"
#include "tools/port_abi/call_block.hpp"
#include "tools/ports/conversation.hpp"
#include "tools/ports/rank_outcomes.hpp"
#include "tools/ports/shared_memory.hpp"

namespace moeref {

class HostProcesses {
 public:
  /// Starts them; every one has loaded the library. Throws InputError, naming the library, where one cannot.
  HostProcesses(const std::filesystem::path& library, std::size_t ranks, const PortSettings& settings);

  /// What the library's table says, in the words of parse_capabilities().
  const nlohmann::json& port() const { return port_; }

  /// One call by all of them at the same time. When one dies, the others have a short while to notice; no
  /// call takes longer than the limit.
  RankOutcomes make(const RankShares& ranks, Poison poison);

  /// One request of another kind to the first of them, and what it answers.
  PortOutcome ask(const nlohmann::json& request, nlohmann::json& answer);

  /// Whether there can be another call: all run, none wrote outside of its buffers, none has lost another.
  bool usable() const { return usable_; }

 private:
  /// One of them.
  struct Host {
    SharedMemory memory;
    std::unique_ptr<Conversation> talk;
  };

  nlohmann::json request(const Call& call, const CallBlock& block, std::size_t rank) const;
  RankOutcomes answers(const std::vector<nlohmann::json>& requests);
  PortOutcome examined(PortOutcome outcome, Host& host, const CallBlock& block, const Call& call);

  PortSettings settings_;
  std::vector<std::unique_ptr<Host>> hosts_;
  nlohmann::json port_;
  std::uint64_t calls_ = 0;
  bool usable_ = true;
};

}  // namespace moeref
