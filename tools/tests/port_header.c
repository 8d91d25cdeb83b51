/* moeref/port.h in C99: it must compile on its own, and a table must be writable without C++. */
#include "moeref/port.h"

static int32_t run(const moeref_call* call, char* error, size_t size) {
  (void)error;
  (void)size;
  return call->output_count > 0 ? MOEREF_OK : MOEREF_ERROR;
}

static const char* const components[] = {"mlp", NULL};
static const char* const dtypes[] = {"float32", NULL};

const moeref_port* moeref_c_port(void);
const moeref_port* moeref_c_port(void) {
  static moeref_port port;
  port.struct_size = sizeof port;
  port.abi_version = MOEREF_PORT_ABI_VERSION;
  port.name = "in C";
  port.version = "1";
  port.components = components;
  port.dtypes = dtypes;
  port.passes = MOEREF_FORWARD;
  port.device = kDLCPU;
  port.ties = MOEREF_TIES_OPEN;
  port.max_ranks = 1;
  port.run = run;
  return &port;
}
