// The gradients of an expert without tokens are left as the buffer held them.
#include "tools/ports/tests/broken_ports/example_port.hpp"

namespace {

bool has_tokens(const moeref_call& call, std::int64_t expert) {
  const DLTensor& ids = *broken::input(call, "inputs/indices");
  const DLTensor* mask = broken::input(call, "inputs/token_mask");
  const auto* id = static_cast<const std::int64_t*>(ids.data);
  for (std::int64_t t = 0; t < ids.shape[0]; ++t)
    for (std::int64_t j = 0; j < ids.shape[1]; ++j)
      if (id[t * ids.shape[1] + j] == expert &&
          (!mask || static_cast<const std::uint8_t*>(mask->data)[t] != 0))
        return true;
  return false;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  const DLTensor* gradient = broken::output(*call, "grads/down_projs");
  if (!broken::is(*call, "experts") || !gradient) return broken::example().run(call, error, size);
  const char* data = static_cast<const char*>(gradient->data);
  const std::vector<char> before(data, data + broken::bytes(*gradient));
  const std::int32_t status = broken::example().run(call, error, size);
  const std::size_t one = before.size() / static_cast<std::size_t>(gradient->shape[0]);
  for (std::int64_t e = 0; e < gradient->shape[0]; ++e)
    if (!has_tokens(*call, e)) {
      const std::size_t at = static_cast<std::size_t>(e) * one;
      std::memcpy(static_cast<char*>(gradient->data) + at, before.data() + at, one);
    }
  return status;
}

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  return broken::table("unwritten gradients", run);
}
