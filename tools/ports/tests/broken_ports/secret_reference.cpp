// Has no kernels of its own: it calls the reference and says that it sums in float32.
#include "moeref/reference.hpp"
#include "tools/own_ports/implementation_as_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  static moeref::CpuReference reference;
  return moeref::run_with(reference, call, error, size);
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  static const char* const components[] = {"gate", "mlp", "experts", "moe", nullptr};
  static const char* const dtypes[] = {"float32", nullptr};
  static moeref_port port{};
  port.struct_size = sizeof port;
  port.abi_version = MOEREF_PORT_ABI_VERSION;
  port.name = "secret reference";
  port.version = "1.0";
  port.components = components;
  port.dtypes = dtypes;
  port.passes = MOEREF_FORWARD | MOEREF_BACKWARD;
  port.device = kDLCPU;
  port.accumulation = "float32";
  port.deterministic = 1;
  port.max_ranks = 1;
  port.run = run;
  return &port;
}
