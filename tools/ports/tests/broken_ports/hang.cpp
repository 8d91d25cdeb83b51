// Waits in the MLP for something that never comes.
#include <unistd.h>

#include "tools/ports/tests/broken_ports/example_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  while (broken::is(*call, "mlp")) ::pause();
  return broken::example().run(call, error, size);
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) { return broken::table("hang", run); }
