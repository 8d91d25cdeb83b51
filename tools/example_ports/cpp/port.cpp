// The table of this port: what it can do, and which function computes what. Copy this folder and put your
// kernels behind the four functions of components.hpp.
#include "moeref/port.h"

#include <cstring>
#include <exception>
#include <string>

#include "components.hpp"

namespace {

void put_text(const char* text, char* out, std::size_t size) {
  if (size == 0) return;
  std::strncpy(out, text, size - 1);
  out[size - 1] = '\0';
}

// No exception may leave a port.
std::int32_t run(const moeref_call* c, char* error, std::size_t size) {
  try {
    const example::Call call(*c);
    const std::string component = c->component;
    if (component == "gate")
      example::run_gate(call);
    else if (component == "mlp")
      example::run_mlp_component(call);
    else if (component == "experts")
      example::run_experts_component(call);
    else
      example::run_moe(call);
    return MOEREF_OK;
  } catch (const example::NotSupported& missing) {
    put_text(missing.what(), error, size);
    return MOEREF_NOT_SUPPORTED;
  } catch (const std::exception& wrong) {
    put_text(wrong.what(), error, size);
    return MOEREF_ERROR;
  }
}

constexpr const char* kComponents[] = {"gate", "mlp", "experts", "moe", nullptr};
constexpr const char* kStages[] = {"logits",     "scores",          "up_projection",
                                   "activation", "down_projection", nullptr};
constexpr const char* kDTypes[] = {example::kStorage, nullptr};

moeref_port table() {
  moeref_port port{};
  port.struct_size = sizeof port;
  port.abi_version = MOEREF_PORT_ABI_VERSION;
  port.name = "plain C++ example";
  port.version = "1.0";
  port.components = kComponents;
  port.stages = kStages;
  port.dtypes = kDTypes;
  port.passes = MOEREF_FORWARD | MOEREF_BACKWARD;
  port.device = kDLCPU;
  port.ties = MOEREF_TIES_LOWEST_ID;
  port.accumulation = "float32";
  port.storage = example::kStorage;
  port.deterministic = 1;
  port.max_ranks = 1;
  port.max_processes = 8;
  port.run = run;
  port.batch_invariant = 1;
  port.products = example::kProducts;
  return port;
}

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = table();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
