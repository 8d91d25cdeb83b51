// The CPU reference as a port: libmoeref_reference_port.so. As a user's port it would prove nothing, so it
// says float64.
#include "moeref/reference.hpp"
#include "port_abi/ranks_as_port.hpp"

namespace {

moeref::CpuReference& reference() {
  static moeref::CpuReference the_one;
  return the_one;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  return moeref::run_ranks_with(reference(), call, error, size);
}

constexpr const char* kComponents[] = {"gate",    "aux_loss", "bias_update", "fake_balanced_gate",
                                       "mlp",     "experts",  "moe",         "init",
                                       "metrics", nullptr};
constexpr const char* kStages[] = {"logits",     "scores",          "up_projection",
                                   "activation", "down_projection", nullptr};
constexpr const char* kDTypes[] = {"float64", "float32", "bfloat16", "float16", nullptr};

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port out{};
    out.struct_size = sizeof out;
    out.abi_version = MOEREF_PORT_ABI_VERSION;
    out.name = "moeref reference";
    out.version = MOEREF_VERSION;
    out.components = kComponents;
    out.stages = kStages;
    out.dtypes = kDTypes;
    out.passes = MOEREF_FORWARD | MOEREF_BACKWARD;
    out.device = kDLCPU;
    out.ties = MOEREF_TIES_LOWEST_ID;
    out.accumulation = "float64";
    out.storage = "float64";
    out.deterministic = 1;
    out.max_ranks = 1024;
    out.max_processes = 8;
    out.run = run;
    return out;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
