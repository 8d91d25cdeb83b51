// A null pointer in the MLP, with a last word on stderr.
#include <cstdio>

#include "tools/ports/tests/broken_ports/example_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  if (!broken::is(*call, "mlp")) return broken::example().run(call, error, size);
  std::fprintf(stderr, "mlp: loading tile 3\n");
  volatile int* volatile nowhere = nullptr;
  *nowhere = 1;
  return MOEREF_OK;
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) { return broken::table("crash", run); }
