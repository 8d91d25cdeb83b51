// Requests to a port's process and its answers, with everything that can go wrong put into words.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tools/ports/port.hpp"
#include "tools/ports/port_process.hpp"

namespace moeref {

class Conversation {
 public:
  /// Throws InputError when the process cannot be started.
  Conversation(const PortProcess::Command& command, std::chrono::milliseconds limit);

  /// What the process says before or in answer to its first request. Throws InputError that begins with `who`
  /// when that is no JSON object, or when it ends or is silent instead, for twelve times the limit of a call.
  nlohmann::json hear_first(const std::string& who, const std::string& when);
  nlohmann::json ask_first(const nlohmann::json& request, const std::string& who, const std::string& when);

  /// PASS without results where it answers "ok"; else what it answers, or what it did instead of answering. A
  /// process that hangs or answers nonsense has been ended.
  PortOutcome ask(const nlohmann::json& request);

  /// The same in steps, for several conversations at a time. An outcome at once where the process is not
  /// ready to be asked; else answers() can be read, or `until` has passed, when hear() is due.
  std::optional<PortOutcome> say(const nlohmann::json& request);
  PortOutcome hear(std::chrono::steady_clock::time_point until);
  int answers() const { return process_.answers(); }
  /// Ends a process that is not waited for any more: an outcome with this verdict and finding.
  PortOutcome give_up(Verdict verdict, const std::string& finding) { return gone(verdict, finding); }

  /// What the last answer said of an exchange that has failed ("exchange"), or nothing.
  const std::string& failed_exchange() const { return failed_exchange_; }

  /// The last answer as it came; null where there was none.
  const nlohmann::json& last_answer() const { return last_answer_; }

  bool running() const { return running_; }

  /// Lets it end by itself.
  void close() { process_.close(std::chrono::seconds(2)); }

 private:
  PortOutcome answered(const std::string& line);
  PortOutcome gone(Verdict verdict, const std::string& finding);
  std::string with_output(const std::string& text) const;

  PortProcess process_;
  std::chrono::milliseconds limit_;
  bool running_ = true;
  std::string failed_exchange_;
  nlohmann::json last_answer_;
};

}  // namespace moeref
