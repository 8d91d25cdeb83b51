// geglu takes the up half for the gate and the gate half for up. The projection itself is right, and so is
// its layout.
#include <algorithm>

#include "tools/ports/tests/broken_ports/example_port.hpp"

namespace {

/// Swaps the halves of every row of `columns` floats.
void swap_halves(void* data, std::size_t size, std::size_t columns) {
  auto* row = static_cast<float*>(data);
  for (float* end = row + size / sizeof(float); row != end; row += columns)
    std::swap_ranges(row, row + columns / 2, row + columns / 2);
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  const bool geglu = std::strstr(call->config, "\"expert_activation\":\"geglu\"") != nullptr;
  if (!broken::is(*call, "experts") || !geglu) return broken::example().run(call, error, size);
  broken::ChangedCall changed(*call);
  const DLTensor& projs = *broken::input(*call, "params/gate_and_up_projs");
  const auto columns = static_cast<std::size_t>(projs.shape[2]);
  for (const char* name : {"params/gate_and_up_projs", "params/gate_up_proj_bias"})
    if (std::vector<char>* copy = changed.copy_input(name)) swap_halves(copy->data(), copy->size(), columns);
  const std::int32_t status = broken::example().run(&changed.call(), error, size);
  // Everything of the projection's own layout back into it.
  for (const char* name : {"stages/up_projection", "grads/gate_and_up_projs", "grads/gate_up_proj_bias"})
    if (const DLTensor* tensor = broken::output(*call, name))
      swap_halves(tensor->data, broken::bytes(*tensor), columns);
  return status;
}

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  return broken::table("swapped halves", run);
}
