#include "tools/ports/host_processes.hpp"

#include <fmt/core.h>
#include <poll.h>

#include <algorithm>
#include <optional>

#include "moeref/config.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// For ranks whose peer has died: enough to notice it and to clean up.
constexpr milliseconds kGrace = std::chrono::seconds(2);

/// ends[a][b] leads from rank a to rank b.
using Connections = std::vector<std::vector<FileDescriptor>>;

Connections connect(std::size_t ranks, const std::string& library) {
  Connections ends(ranks);
  for (auto& row : ends) row.resize(ranks);
  for (std::size_t a = 0; a < ranks; ++a)
    for (std::size_t b = a + 1; b < ranks; ++b) {
      SocketPair pair = socket_pair(library);
      ends[a][b] = std::move(pair.one);
      ends[b][a] = std::move(pair.other);
    }
  return ends;
}

/// Waits until one of them can be read, or for so long.
void wait_for_any(const std::vector<const Conversation*>& talks, Clock::time_point until) {
  std::vector<pollfd> files;
  for (const Conversation* talk : talks) files.push_back({talk->answers(), POLLIN, 0});
  const auto left = std::chrono::ceil<milliseconds>(until - Clock::now()).count();
  ::poll(files.data(), files.size(), static_cast<int>(std::max<std::int64_t>(left, 0)));
}

}  // namespace

HostProcesses::HostProcesses(const std::filesystem::path& library, std::size_t ranks,
                             const PortSettings& settings)
    : settings_(settings) {
  Connections ends = connect(ranks, library.string());
  for (std::size_t r = 0; r < ranks; ++r) {
    Host& host = *hosts_.emplace_back(std::make_unique<Host>());
    std::vector<int> sockets;
    for (const FileDescriptor& end : ends[r]) sockets.push_back(end.number());
    // An absolute path: dlopen searches the system's folders for a name without a slash.
    host.talk = std::make_unique<Conversation>(
        PortProcess::Command{settings.host.string(),
                             {"moeref", "port-host", std::filesystem::absolute(library).string()},
                             true,
                             host.memory.file(),
                             std::move(sockets)},
        settings.limit);
    // Held by that process alone from here on, so that its end is seen at the other one.
    ends[r].clear();
  }
  for (const auto& host : hosts_) {
    json said = host->talk->hear_first(library.string(), "while it was being loaded");
    if (said.value("status", "") != "ok")
      throw InputError(library.string() + ": " + said.value("reason", "is no port"));
    port_ = std::move(said.at("port"));
  }
}

json HostProcesses::request(const Call& call, const CallBlock& block, std::size_t rank) const {
  const bool mlp = call.component == Component::mlp;
  json tensors = json::array();
  for (const BlockTensor& tensor : block.tensors())
    tensors.push_back({{"name", tensor.name},
                       {"dtype", name(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"offset", tensor.offset},
                       {"output", tensor.output},
                       {"optional", tensor.optional}});
  const json config =
      mlp ? full_json(parse_mlp_config(call.config)) : full_json(parse_moe_config(call.config));
  return {{"request", "run"},
          {"size", block.size()},
          {"component", name(call.component)},
          {"backward", call.backward},
          {"config", config.dump()},
          {"options", full_json(parse_call_options(call.options)).dump()},
          {"tensors", std::move(tensors)},
          {"rank", rank},
          {"world_size", hosts_.size()},
          {"share_devices", settings_.share_devices},
          {"call", calls_},
          // So that a rank that waits for one that hangs can still say so.
          {"exchange_limit", settings_.limit.count() * 4 / 5}};
}

RankOutcomes HostProcesses::answers(const std::vector<json>& requests) {
  std::vector<std::optional<PortOutcome>> heard;
  for (std::size_t r = 0; r < hosts_.size(); ++r) heard.push_back(hosts_[r]->talk->say(requests[r]));
  const Clock::time_point limit = Clock::now() + settings_.limit;
  std::optional<std::pair<std::size_t, Clock::time_point>> dead;  // the first, and how long others may take
  for (;;) {
    std::vector<const Conversation*> waiting;
    for (std::size_t r = 0; r < hosts_.size(); ++r) {
      if (!heard[r]) waiting.push_back(hosts_[r]->talk.get());
      if (heard[r] && heard[r]->verdict == Verdict::crashed && !dead) dead = {r, Clock::now() + kGrace};
    }
    if (waiting.empty()) break;
    const Clock::time_point until = dead ? std::min(limit, dead->second) : limit;
    wait_for_any(waiting, until);
    for (std::size_t r = 0; r < hosts_.size(); ++r) {
      if (heard[r]) continue;
      Conversation& talk = *hosts_[r]->talk;
      pollfd file{talk.answers(), POLLIN, 0};
      if (::poll(&file, 1, 0) > 0 || Clock::now() >= limit)
        heard[r] = talk.hear(limit);
      else if (Clock::now() >= until)
        heard[r] = talk.give_up(Verdict::fail,
                                fmt::format("still in its call {:g} s after rank {} had died",
                                            static_cast<double>(kGrace.count()) / 1000.0, dead->first));
    }
  }
  RankOutcomes out;
  for (auto& outcome : heard) out.push_back(*std::move(outcome));
  return out;
}

/// What it did to memory counts even where it then refused or crashed, and may be the reason.
PortOutcome HostProcesses::examined(PortOutcome outcome, Host& host, const CallBlock& block,
                                    const Call& call) {
  const bool computed = outcome.verdict == Verdict::pass;
  const std::string& lost = host.talk->failed_exchange();
  outcome.lost_ranks = !lost.empty();
  if (computed && !lost.empty())
    add_finding(outcome, Verdict::fail, "failed exchange, and the port says that all is well: " + lost);
  else if (!lost.empty())
    outcome.finding += " (" + lost + ")";
  const auto damage = block.overwritten(host.memory.data()),
             changed = block.changed_input(host.memory.data(), call);
  if (damage) add_finding(outcome, Verdict::fail, "out-of-bounds write: " + *damage);
  if (changed) add_finding(outcome, Verdict::fail, "changed input: " + *changed + " is not what it was");
  if (computed) outcome.results = block.results(host.memory.data());
  // Whatever else it wrote to may be its own memory: no further call in that process.
  usable_ = usable_ && host.talk->running() && !damage && lost.empty();
  return outcome;
}

PortOutcome HostProcesses::ask(const json& request, json& answer) {
  Conversation& talk = *hosts_.front()->talk;
  PortOutcome outcome = talk.ask(request);
  answer = talk.last_answer();
  usable_ = usable_ && talk.running();
  return outcome;
}

RankOutcomes HostProcesses::make(const RankShares& ranks, Poison poison) {
  ++calls_;
  std::vector<CallBlock> blocks;
  std::vector<json> requests;
  for (std::size_t r = 0; r < hosts_.size(); ++r) {
    const CallBlock& block = blocks.emplace_back(ranks.call(r), ranks.outputs(r));
    block.fill(hosts_[r]->memory.of_size(block.size()), ranks.call(r), poison);
    requests.push_back(request(ranks.call(r), block, r));
  }
  RankOutcomes outcomes = answers(requests);
  for (std::size_t r = 0; r < hosts_.size(); ++r)
    outcomes[r] = examined(std::move(outcomes[r]), *hosts_[r], blocks[r], ranks.call(r));
  return outcomes;
}

}  // namespace moeref
