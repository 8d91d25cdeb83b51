// A tile of the output's last rows is written whole, beyond the last row.
#include "tools/ports/tests/broken_ports/example_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  const std::int32_t status = broken::example().run(call, error, size);
  const DLTensor* y = broken::output(*call, "outputs/y");
  if (status == MOEREF_OK && y && broken::is(*call, "mlp"))
    std::memset(static_cast<char*>(y->data) + broken::bytes(*y), 0, 24);
  return status;
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  return broken::table("write past the end", run);
}
