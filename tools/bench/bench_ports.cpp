#include "tools/bench/bench_ports.hpp"

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/ports/own_library.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/environment.hpp"

namespace moeref {
namespace {

class ReferenceBench final : public BenchPort {
 public:
  BenchDefaults defaults() const override { return {3, 128, 128, 32}; }
  bench::Facts facts() const override {
    bench::Facts facts = environment();
    facts.emplace_back("threads_used", std::to_string(thread_count()));
    return facts;
  }
  int threads() const override { return thread_count(); }
  std::vector<bench::Measurement> measure(const bench::Layer& layer, Component component,
                                          int repeat) override {
    return measure_reference(layer, component, repeat);
  }
};

bool is_path(std::string_view port) { return port.ends_with(".so") || port.find('/') != port.npos; }

}  // namespace

std::unique_ptr<BenchPort> open_bench_port(std::string_view port, std::chrono::milliseconds limit) {
  if (port == "cpu") return std::make_unique<ReferenceBench>();
  if (port == "cuda") return open_bench_library(port, cuda_port_library(PortSettings{}.host), limit);
  if (is_path(port) && port.find(':') == port.npos) return open_bench_library(port, std::string(port), limit);
  throw InputError("--port " + std::string(port) + " has no benchmark: want cpu, cuda or PATH.so");
}

}  // namespace moeref
