#include "tools/ports/conversation.hpp"

#include <fmt/core.h>

#include "moeref/error.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Nothing but an object is an answer.
std::optional<json> object_of(const std::string& line) {
  json value = json::parse(line, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  return value;
}

std::string shortened(const std::string& line) {
  constexpr std::size_t kShown = 120;
  return one_line(line.size() > kShown ? line.substr(0, kShown) + "..." : line);
}

std::string reason_of(const json& answer) {
  const auto it = answer.find("reason");
  if (it == answer.end() || !it->is_string()) return "it gives no reason";
  return one_line(it->get<std::string>());
}

/// How many limits of a call a process may take to start: importing a large package takes longer than a call.
constexpr int kLimitsToStart = 12;

std::string seconds(std::chrono::milliseconds limit) {
  return fmt::format("{:g} s", static_cast<double>(limit.count()) / 1000.0);
}

}  // namespace

Conversation::Conversation(const PortProcess::Command& command, std::chrono::milliseconds limit)
    : process_(command), limit_(limit) {}

std::string Conversation::with_output(const std::string& text) const {
  const std::string tail = process_.output_tail();
  return tail.empty() ? text : text + "; it printed: " + tail;
}

json Conversation::ask_first(const json& request, const std::string& who, const std::string& when) {
  process_.say(request.dump());
  return hear_first(who, when);
}

json Conversation::hear_first(const std::string& who, const std::string& when) {
  const auto limit = limit_ * kLimitsToStart;
  const PortProcess::Answer answer = process_.listen(limit);
  if (answer.heard == PortProcess::Heard::line) {
    if (auto value = object_of(answer.line)) return *std::move(value);
    throw InputError(who + ": broke the protocol " + when + ": said '" + shortened(answer.line) +
                     "', which is no JSON object");
  }
  if (answer.heard == PortProcess::Heard::ended)
    throw InputError(with_output(who + ": " + process_.how_it_ended() + " " + when));
  process_.kill();
  throw InputError(with_output(who + ": said nothing within " + seconds(limit) + " " + when));
}

PortOutcome Conversation::gone(Verdict verdict, const std::string& finding) {
  running_ = false;
  const std::string text = with_output(finding);
  process_.kill();
  return {{}, verdict, text};
}

PortOutcome Conversation::ask(const json& request) {
  if (auto outcome = say(request)) return *std::move(outcome);
  return hear(std::chrono::steady_clock::now() + limit_);
}

std::optional<PortOutcome> Conversation::say(const json& request) {
  process_.forget_output();
  failed_exchange_.clear();
  last_answer_ = nullptr;
  const PortProcess::Answer unasked = process_.listen(std::chrono::milliseconds(0));
  if (unasked.heard == PortProcess::Heard::line)
    return gone(Verdict::crashed,
                "broke the protocol: said '" + shortened(unasked.line) + "' without being asked");
  process_.say(request.dump());
  return std::nullopt;
}

PortOutcome Conversation::hear(std::chrono::steady_clock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
  const PortProcess::Answer answer = process_.listen(left);
  switch (answer.heard) {
    case PortProcess::Heard::line:
      return answered(answer.line);
    case PortProcess::Heard::timeout:
      return gone(Verdict::hung, "hang: no answer within " + seconds(limit_));
    case PortProcess::Heard::endless:
      return gone(Verdict::crashed, "broke the protocol: its answer is a line without an end");
    case PortProcess::Heard::ended:
      break;
  }
  const std::string how = process_.how_it_ended();
  const bool exited = how.starts_with("ended itself");
  return gone(Verdict::crashed, (exited ? "exit: " : "crash: ") + how + " in the middle of a call");
}

PortOutcome Conversation::answered(const std::string& line) {
  const auto answer = object_of(line);
  if (!answer)
    return gone(Verdict::crashed,
                "broke the protocol: answered '" + shortened(line) + "', which is no JSON object");
  if (const auto failed = answer->find("exchange"); failed != answer->end() && failed->is_string())
    failed_exchange_ = one_line(failed->get<std::string>());
  last_answer_ = *answer;
  const auto it = answer->find("status");
  const std::string status = it != answer->end() && it->is_string() ? it->get<std::string>() : "";
  if (status == "ok") return {};
  if (status == "not_supported") return {{}, Verdict::not_supported, reason_of(*answer)};
  if (status == "error")
    return {.verdict = Verdict::fail,
            .finding = with_output("the port gave an error: " + reason_of(*answer)),
            .refused = true};
  if (status == "withdrawn")
    return {
        {}, Verdict::fail, "claimed capability: supports() said yes, and run() says: " + reason_of(*answer)};
  if (status == "lost") return gone(Verdict::crashed, reason_of(*answer));
  if (status == "broken") return gone(Verdict::crashed, "broke the ABI: " + reason_of(*answer));
  return gone(Verdict::crashed, "broke the protocol: answered the status '" + shortened(status) +
                                    "': want ok, not_supported or error");
}

}  // namespace moeref
