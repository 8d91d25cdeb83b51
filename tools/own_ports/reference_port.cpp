// The CPU reference as a port: libmoeref_reference_port.so. As a user's port it would prove nothing, so it
// says float64.
#include <string_view>
#include <vector>

#include "moeref/reference.hpp"
#include "reference_cpu/call/conventions.hpp"
#include "tools/own_ports/implementation_as_port.hpp"
#include "tools/own_ports/ranks_as_port.hpp"

namespace {

moeref::CpuReference& reference() {
  static moeref::CpuReference the_one;
  return the_one;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  return moeref::run_ranks_with(reference(), call, error, size);
}

constexpr const char* kStages[] = {"logits",     "scores",          "up_projection",
                                   "activation", "down_projection", nullptr};
constexpr const char* kDTypes[] = {"float64", "float32", "bfloat16", "float16", nullptr};

/// All that there are: it is the reference.
const char* const* conventions() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> out;
    for (const std::string_view name : moeref::all_conventions()) out.push_back(name.data());
    out.push_back(nullptr);
    return out;
  }();
  return names.data();
}

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port out = moeref::table_of_ours("moeref reference", MOEREF_VERSION);
    out.stages = kStages;
    out.dtypes = kDTypes;
    out.accumulation = "float64";
    out.storage = "float64";
    out.max_ranks = 1024;
    out.max_processes = 8;
    out.batch_invariant = 1;
    out.conventions = conventions();
    out.run = run;
    return out;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
