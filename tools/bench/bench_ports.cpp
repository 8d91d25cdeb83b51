#include "tools/bench/bench_ports.hpp"

#include <array>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/report/environment.hpp"
#ifdef MOEREF_WITH_CUDA
#include "tools/bench/cuda/cuda_bench.hpp"
#endif

namespace moeref {
namespace {

bench::Facts facts_of_machine() {
  bench::Facts facts = environment();
  facts.emplace_back("threads_used", std::to_string(thread_count()));
  return facts;
}

constexpr std::array kPorts{
    BenchPort{"cpu", 3, 128, 128, 32, facts_of_machine, thread_count, measure_reference},
#ifdef MOEREF_WITH_CUDA
    BenchPort{"cuda", 10, 0, 8192, 1, cuda::bench::device_facts, [] { return 0; }, cuda::bench::measure},
#endif
};

}  // namespace

const BenchPort& find_bench_port(std::string_view port) {
  std::string names;
  for (const BenchPort& one : kPorts) {
    if (one.name == port) return one;
    names += (names.empty() ? "" : ", ") + std::string(one.name);
  }
  if (port == "cuda") throw InputError("--port cuda: this moeref was built without CUDA");
  throw InputError("--port " + std::string(port) + " has no benchmark: want one of " + names);
}

}  // namespace moeref
