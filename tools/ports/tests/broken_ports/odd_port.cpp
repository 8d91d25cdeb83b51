// Everything else that a port can do wrong, one way by the name in MOEREF_TEST_ODDITY.
#include <cmath>
#include <cstdlib>
#include <random>
#include <stdexcept>

#include "tools/ports/tests/broken_ports/example_port.hpp"

namespace {

bool odd(const char* way) {
  const char* wanted = std::getenv("MOEREF_TEST_ODDITY");
  return wanted && std::strcmp(wanted, way) == 0;
}

float* floats(const DLTensor* tensor) { return static_cast<float*>(tensor->data); }

/// The last bit of every other element or so, within what rounding explains.
void disturb(float* values, std::size_t count) {
  std::random_device random;
  for (std::size_t i = 0; i < count; ++i)
    if (random() % 2 == 0) values[i] = std::nextafter(values[i], 0.0f);
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  static int calls = 0;
  ++calls;
  if (!broken::is(*call, "mlp")) return broken::example().run(call, error, size);
  if (odd("exits")) std::exit(7);
  if (odd("throws")) throw std::runtime_error("no such tile");
  if (odd("returns_nonsense")) return 42;
  if (odd("withdraws")) {
    std::strncpy(error, "only on Tuesdays", size);
    return MOEREF_NOT_SUPPORTED;
  }
  const DLTensor* y = broken::output(*call, "outputs/y");
  const float before = floats(y)[0];
  const std::int32_t status = broken::example().run(call, error, size);
  if (odd("changes_an_input")) const_cast<float*>(floats(broken::input(*call, "inputs/x")))[5] += 1.0f;
  if (odd("writes_before")) *(static_cast<char*>(y->data) - 1) = 0;
  if (odd("leaves_an_element")) floats(y)[3] = before;  // all elements held the same
  if (odd("adds_to_the_buffer") && before == before) floats(y)[0] += before * 1e-9f;
  if (odd("counts_calls")) floats(y)[0] *= 1.0f + 1.2e-7f * static_cast<float>(calls % 2);
  if (odd("is_random")) disturb(floats(y), broken::bytes(*y) / sizeof(float));
  if (odd("remembers") && calls > 1) floats(y)[0] += 1.0f;
  return status;
}

std::int32_t supports(const moeref_call*, char*, std::size_t) { return MOEREF_OK; }

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  if (odd("gives_no_table")) return nullptr;
  if (odd("crashes_when_loaded")) std::abort();
  static moeref_port port = *broken::table("odd", run);
  if (odd("has_a_short_table")) port.struct_size = 16;
  if (odd("has_another_version")) port.abi_version = 7;
  if (odd("has_no_run")) port.run = nullptr;
  if (odd("has_no_such_component")) {
    static const char* const components[] = {"gates", nullptr};
    port.components = components;
  }
  if (std::getenv("MOEREF_TEST_DEVICE")) port.device = kDLCUDA;
  if (odd("withdraws")) port.supports = supports;
  return &port;
}
