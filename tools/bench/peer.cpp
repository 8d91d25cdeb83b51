#include "tools/bench/peer.hpp"

#include <fmt/core.h>

#include <cmath>

#include "moeref/error.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {

using nlohmann::json;

Peer::Peer(std::string command, std::chrono::milliseconds limit)
    : command_(std::move(command)), limit_(limit), process_({"/bin/sh", {"sh", "-c", command_}}) {}

void Peer::fail(const std::string& how) const {
  const std::string printed = process_.output_tail();
  throw InputError(
      fmt::format("--beside {}: {}{}", command_, how, printed.empty() ? "" : "; it printed: " + printed));
}

json Peer::ask(const json& request, std::chrono::milliseconds limit) {
  process_.say(request.dump());
  const PortProcess::Answer answer = process_.listen(limit);
  if (answer.heard == PortProcess::Heard::ended) fail(process_.how_it_ended());
  if (answer.heard != PortProcess::Heard::line)
    fail(fmt::format("no answer within {:g} s", static_cast<double>(limit.count()) / 1000.0));
  json said = json::parse(answer.line, nullptr, false);
  if (!said.is_object()) fail("said '" + one_line(answer.line.substr(0, 120)) + "', which is no JSON object");
  if (const auto error = said.find("error"); error != said.end())
    fail(error->is_string() ? one_line(error->get<std::string>()) : error->dump());
  return said;
}

void Peer::prepare(const json& layer) {
  if (ask(layer, 12 * limit_).value("ready", json()) != true)
    fail("want {\"ready\": true} in answer to a layer");
}

double Peer::run(const std::string& pass) {
  const json ms = ask({{"run", pass}}, limit_).value("ms", json());
  if (!ms.is_number() || !(ms.get<double>() > 0.0) || !std::isfinite(ms.get<double>()))
    fail("want {\"ms\": a number above 0} in answer to a pass");
  return ms.get<double>();
}

}  // namespace moeref
