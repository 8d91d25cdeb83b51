// What rank 1 of the example port can do wrong in `moe` with the all-gather exchange while the other ranks do
// all right, one way by the name in MOEREF_TEST_ODDITY.
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>

#include "tools/ports/tests/broken_ports/example_port.hpp"

namespace {

bool odd(const char* way) {
  const char* wanted = std::getenv("MOEREF_TEST_ODDITY");
  return wanted && std::strcmp(wanted, way) == 0;
}

/// The suite's exchange with something between, which happens at rank 1's second all_gather.
struct Interposed {
  const moeref_exchange* real;
  int calls;
};

std::int32_t all_gather(void* context, const void* send, std::size_t bytes, void* receive) {
  auto& self = *static_cast<Interposed*>(context);
  const moeref_exchange& e = *self.real;
  if (++self.calls != 2) return e.all_gather(e.context, send, bytes, receive);
  if (odd("dies")) std::abort();
  while (odd("never_comes")) ::pause();
  if (odd("leaves")) return MOEREF_ERROR;
  if (odd("sends_more")) {
    const std::vector<char> more(bytes + 8);
    std::vector<char> all(static_cast<std::size_t>(e.world_size) * more.size());
    return e.all_gather(e.context, more.data(), more.size(), all.data());
  }
  if (odd("calls_another")) {
    const std::vector<const void*> from(static_cast<std::size_t>(e.world_size));
    const std::vector<void*> to(from.size());
    const std::vector<std::size_t> none(from.size());
    return e.all_to_all(e.context, from.data(), none.data(), to.data(), none.data());
  }
  return e.all_gather(e.context, send, bytes, receive);
}

std::int32_t all_to_all(void* context, const void* const* send, const std::size_t* send_bytes,
                        void* const* receive, const std::size_t* receive_bytes) {
  const moeref_exchange& e = *static_cast<Interposed*>(context)->real;
  return e.all_to_all(e.context, send, send_bytes, receive, receive_bytes);
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  static int calls = 0;
  ++calls;
  if (std::getenv("MOEREF_TEST_DEVICE")) {
    const DLDevice device = call->inputs[0].tensor.device;
    const bool shared = std::getenv("MOEREF_TEST_CUDA_DEVICES") == nullptr;
    if (device.device_type != kDLCUDA || device.device_id != (shared ? 0 : call->rank)) {
      std::strncpy(error, "the tensors lie on another device than this rank's", size);
      return MOEREF_ERROR;
    }
  }
  const bool all_gather_asked = std::strstr(call->options, "\"exchange\":\"all_gather\"") != nullptr;
  if (call->world_size == 1 || !broken::is(*call, "moe") || !all_gather_asked)
    return broken::example().run(call, error, size);
  if (odd("dies_while_others_hang")) {
    if (call->rank == 1) std::abort();
    for (;;) ::pause();
  }
  if (odd("ignores_a_failure")) {
    const std::int32_t status = broken::example().run(call, error, size);
    char own[16] = {}, all[64] = {};
    call->exchange->all_gather(call->exchange->context, own, static_cast<std::size_t>(call->rank) + 1, all);
    return status;
  }
  if (call->rank != 1) return broken::example().run(call, error, size);
  if (odd("declines")) {
    std::strncpy(error, "no second rank", size);
    return MOEREF_NOT_SUPPORTED;
  }
  Interposed between{call->exchange, 0};
  moeref_exchange exchange = *call->exchange;
  exchange.context = &between;
  exchange.all_gather = all_gather;
  exchange.all_to_all = all_to_all;
  moeref_call changed = *call;
  changed.exchange = &exchange;
  auto* y = static_cast<float*>(broken::output(*call, "outputs/y")->data);
  const float before = y[3];
  const std::int32_t status = broken::example().run(&changed, error, size);
  if (odd("changes_an_input")) static_cast<float*>(broken::input(*call, "inputs/x")->data)[0] += 1.0f;
  if (odd("writes_before")) *(reinterpret_cast<char*>(y) - 1) = 0;
  if (odd("leaves_an_element")) y[3] = before;
  if (odd("counts_calls")) y[0] *= 1.0f + 1.2e-7f * static_cast<float>(calls % 2);
  if (odd("differs")) {
    auto* gradient = static_cast<float*>(broken::output(*call, "grads/gate.weight")->data);
    gradient[2] = std::nextafter(gradient[2], 1.0f);
  }
  return status;
}

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t) {
  static moeref_port port = *broken::table("odd ranks", run);
  if (std::getenv("MOEREF_TEST_DEVICE")) port.device = kDLCUDA;
  if (odd("is_of_the_first_version")) port.struct_size = offsetof(moeref_port, max_processes);
  return &port;
}
