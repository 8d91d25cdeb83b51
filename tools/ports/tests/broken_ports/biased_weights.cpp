// The routing weights are taken from the scores with the correction bias, which is for the choice alone.
#include "tools/ports/tests/broken_ports/example_port.hpp"

static std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  broken::ChangedCall changed(*call);
  changed.replace_in_config("\"router_weight_uses_score_correction_bias\":false",
                            "\"router_weight_uses_score_correction_bias\":true");
  return broken::example().run(&changed.call(), error, size);
}

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  return broken::table("biased weights", run);
}
