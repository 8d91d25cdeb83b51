/* moeref/port.h in C99: it must compile on its own, and a table must be writable without C++. */
#include "moeref/port.h"

/* All ranks' numbers added up, as a port with several processes would. */
static int32_t sum_of_ranks(const moeref_call* call, int32_t* sum) {
  int32_t all[16], i;
  const moeref_exchange* e = call->exchange;
  *sum = 0;
  if (call->world_size == 1) return MOEREF_OK;
  if (e->all_gather(e->context, &e->rank, sizeof e->rank, all) != MOEREF_OK) return MOEREF_ERROR;
  for (i = 0; i < e->world_size; ++i) *sum += all[i];
  return MOEREF_OK;
}

static int32_t run(const moeref_call* call, char* error, size_t size) {
  int32_t sum;
  (void)error;
  (void)size;
  if (sum_of_ranks(call, &sum) != MOEREF_OK) return MOEREF_ERROR;
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
  port.max_processes = 16;
  port.run = run;
  return &port;
}
