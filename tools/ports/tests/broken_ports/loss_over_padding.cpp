// The auxiliary loss is averaged over all tokens, padding too.
#include "tools/ports/tests/broken_ports/example_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  const std::int32_t status = broken::example().run(call, error, size);
  const DLTensor* loss = broken::output(*call, "outputs/aux_loss");
  if (status != MOEREF_OK || !loss) return status;
  broken::ChangedCall unmasked(*call);
  unmasked.drop_input("inputs/token_mask");
  unmasked.drop_input("inputs/padding_mask");
  unmasked.copy_outputs();
  const moeref_call& other = unmasked.call();
  const std::int32_t again = broken::example().run(&other, error, size);
  std::memcpy(loss->data, broken::output(other, "outputs/aux_loss")->data, broken::bytes(*loss));
  return again;
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  return broken::table("loss over padding", run);
}
