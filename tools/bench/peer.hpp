// Another implementation of the routed experts that is timed beside ours: a program that prepares what a line
// of JSON asks for and then times one pass a line. So each side's passes lie between the other's, on the same
// card at the same heat. What it is told and answers: tools/README.md, tools/bench/peers.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/ports/port_process.hpp"

namespace moeref {

class Peer {
 public:
  /// `command` as a shell takes it; `limit` is for one answer, and twelve times that for its preparations.
  Peer(std::string command, std::chrono::milliseconds limit);
  ~Peer() { process_.close(std::chrono::seconds(2)); }

  /// The layer that the next passes are of. Throws InputError for a peer that ends, is silent, refuses or
  /// says what is not its protocol; run() does, too.
  void prepare(const nlohmann::json& layer);
  /// Milliseconds of one pass, "forward" or "forward+backward".
  double run(const std::string& pass);

 private:
  nlohmann::json ask(const nlohmann::json& request, std::chrono::milliseconds limit);
  [[noreturn]] void fail(const std::string& how) const;

  std::string command_;
  std::chrono::milliseconds limit_;
  PortProcess process_;
};

}  // namespace moeref
