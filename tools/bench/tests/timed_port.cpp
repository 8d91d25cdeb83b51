// A port with bench(), which does what TIMED_PORT in the environment says. Its times tell which request they
// answer: the forward's are the tokens, in milliseconds.
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "moeref/port.h"

namespace {

using nlohmann::json;

std::string mode() {
  const char* text = std::getenv("TIMED_PORT");
  return text ? text : "";
}

std::int32_t say(const std::string& text, char* answer, std::size_t size, std::int32_t status = MOEREF_OK) {
  std::strncpy(answer, text.c_str(), size - 1);
  return status;
}

json pass(const char* name, double milliseconds) {
  return {{"pass", name},
          {"median_ms", milliseconds},
          {"least_ms", milliseconds / 2},
          {"most_ms", milliseconds * 2}};
}

std::int32_t bench(const char* text, char* answer, std::size_t size) {
  const json request = json::parse(text);
  if (request.at("request") == "facts") {
    if (mode() == "no device") return say("no device here", answer, size, MOEREF_ERROR);
    return say(R"({"facts": [["device", "Abacus 9"], ["beads", "90"]], "threads": 0})", answer, size);
  }
  const double tokens = request.at("tokens").get<double>();
  if (request.at("component") == "experts") {
    if (mode() == "crash") std::abort();
    if (mode() == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
    if (mode() == "lost") return say("the beads are gone", answer, size, MOEREF_LOST);
    if (mode() == "error") return say("too few beads", answer, size, MOEREF_ERROR);
    if (mode() == "odd status") return 77;
    if (mode() == "odd time") return say(R"({"measurements": [{"pass": "forward"}]})", answer, size);
    if (mode() == "no json") return say("fast", answer, size);
  }
  json forward = pass("forward", tokens), both = pass("forward+backward", 3.0 * tokens);
  forward["kernels"] = "by hand";
  both["dense_ms"] = tokens;
  return say(json{{"measurements", {forward, both}}}.dump(), answer, size);
}

std::int32_t run(const moeref_call*, char*, std::size_t) { return MOEREF_NOT_SUPPORTED; }

constexpr const char *kComponents[] = {"moe", nullptr}, *kDTypes[] = {"bfloat16", nullptr};

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  static const moeref_port port = [] {
    moeref_port out{};
    out.struct_size = sizeof out;
    out.abi_version = MOEREF_PORT_ABI_VERSION;
    out.name = "timed port";
    out.components = kComponents;
    out.dtypes = kDTypes;
    out.passes = MOEREF_FORWARD;
    out.device = kDLCPU;
    out.max_ranks = 1;
    out.run = run;
    out.bench = bench;
    return out;
  }();
  return &port;
}
