#include <fmt/core.h>

#include <filesystem>

#include "moeref/error.hpp"
#include "tools/bench/bench_ports.hpp"
#include "tools/bench/measurement_json.hpp"
#include "tools/bench/products.hpp"
#include "tools/ports/host_processes.hpp"
#include "tools/ports/port.hpp"

namespace moeref {
namespace {

using nlohmann::json;

[[noreturn]] void broke_the_protocol(const std::string& how) {
  throw InputError("broke the protocol of bench(): " + how);
}

class LibraryBench final : public BenchPort {
 public:
  LibraryBench(std::string_view name, const std::string& library, std::chrono::milliseconds limit)
      : library_(library) {
    settings_.limit = limit;
    if (!std::filesystem::is_regular_file(library)) throw InputError(library + ": is no file");
    processes_ = std::make_unique<HostProcesses>(library_, 1, settings_);
    try {
      take_facts();
    } catch (const std::exception& error) {
      throw InputError(fmt::format("--port {}: {}", name, error.what()));
    }
  }

  BenchDefaults defaults() const override {
    if (threads_ > 0) return {3, 128, 128, 1};
    return {10, 0, 8192, 1};
  }
  bench::Facts facts() const override { return facts_; }
  int threads() const override { return threads_; }

  std::vector<bench::Measurement> measure(const bench::Layer& layer, Component component,
                                          int repeat) override {
    if (!processes_) processes_ = std::make_unique<HostProcesses>(library_, 1, settings_);
    const json answer = ask({{"request", "measure"},
                             {"component", name(component)},
                             {"config", full_json(layer.config)},
                             {"options", full_json(layer.options)},
                             {"tokens", layer.tokens},
                             {"repeat", repeat}});
    const json measurements = answer.value("measurements", json());
    if (!measurements.is_array() || measurements.empty())
      broke_the_protocol("its answer has no list 'measurements'");
    std::vector<bench::Measurement> out;
    for (const json& one : measurements) {
      bench::Measurement& measured = out.emplace_back(bench::parse_measurement(one));
      measured.component = component;
      measured.flops = (measured.backward ? 3.0 : 1.0) * bench::forward_flops(component, layer);
    }
    return out;
  }

 private:
  /// The answer to one request. A process that ended is started again for the next one.
  json ask(const json& request) {
    json reply;
    const PortOutcome outcome = processes_->ask({{"request", "bench"}, {"ask", request.dump()}}, reply);
    if (!processes_->usable()) processes_.reset();
    switch (outcome.verdict) {
      case Verdict::pass:
        break;
      case Verdict::crashed:
      case Verdict::hung:
        throw PortFailure(outcome.verdict, outcome.finding);
      case Verdict::not_supported:
        throw InputError(fmt::format("{}: {}", moeref::name(outcome.verdict), outcome.finding));
      default:
        throw InputError(reply.value("reason", outcome.finding));
    }
    json answer = json::parse(reply.value("answer", ""), nullptr, false);
    if (!answer.is_object()) broke_the_protocol("its answer is no JSON object");
    return answer;
  }

  void take_facts() {
    const json answer = ask({{"request", "facts"}});
    try {
      facts_ = answer.at("facts").get<bench::Facts>();
      threads_ = answer.at("threads").get<int>();
    } catch (const json::exception&) {
      broke_the_protocol("want 'facts', a list of pairs of texts, and 'threads', a number");
    }
  }

  std::filesystem::path library_;
  PortSettings settings_;
  std::unique_ptr<HostProcesses> processes_;
  bench::Facts facts_;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<BenchPort> open_bench_library(std::string_view name, const std::string& library,
                                              std::chrono::milliseconds limit) {
  return std::make_unique<LibraryBench>(name, library, limit);
}

}  // namespace moeref
