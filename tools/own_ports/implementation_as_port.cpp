#include "tools/own_ports/implementation_as_port.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tools/port_abi/dlpack_types.hpp"

namespace moeref {
namespace {

Shape shape_of(const DLTensor& tensor) { return {tensor.shape, tensor.shape + tensor.ndim}; }

/// Of 8-bit integers, inputs are booleans and parameters are codes.
DType dtype_of(const moeref_named_tensor& named) {
  const auto dtype = from_dlpack(named.tensor.dtype);
  if (dtype == DType::boolean && std::string_view(named.name).starts_with("params/")) return DType::uint8;
  if (!dtype) throw std::runtime_error(std::string(named.name) + " has an unknown element type");
  return *dtype;
}

void write(const moeref_named_tensor& output, const NamedTensors& results) {
  const Tensor* result = find(results, output.name);
  if (!result && (output.flags & MOEREF_OPTIONAL)) return;
  if (!result) throw std::runtime_error(std::string("gave no ") + output.name);
  if (result->shape() != shape_of(output.tensor))
    throw std::runtime_error(std::string(output.name) + " came out as " + to_string(result->shape()));
  const Tensor stored = result->cast(dtype_of(output));
  std::ranges::copy(stored.bytes(), static_cast<std::byte*>(output.tensor.data));
}

}  // namespace

void put_text(const std::string& text, char* out, std::size_t size) {
  if (size == 0) return;
  const std::size_t length = std::min(text.size(), size - 1);
  std::memcpy(out, text.data(), length);
  out[length] = '\0';
}

Call call_of(const moeref_call& c) {
  Call call;
  call.component = parse_component(c.component);
  call.config = nlohmann::json::parse(c.config);
  call.options = nlohmann::json::parse(c.options);
  call.backward = c.pass == MOEREF_BACKWARD;
  for (std::size_t i = 0; i < c.input_count; ++i) {
    const moeref_named_tensor& input = c.inputs[i];
    Tensor tensor(dtype_of(input), shape_of(input.tensor));
    const auto* data = static_cast<const std::byte*>(input.tensor.data);
    std::copy_n(data, tensor.bytes().size(), tensor.bytes().begin());
    call.tensors.emplace(input.name, std::move(tensor));
  }
  return call;
}

void write_results(const moeref_call& call, const NamedTensors& results) {
  for (std::size_t i = 0; i < call.output_count; ++i) write(call.outputs[i], results);
}

std::int32_t give_error(const std::exception& thrown, char* error, std::size_t size) {
  put_text(thrown.what(), error, size);
  return MOEREF_ERROR;
}

moeref_port table_of_ours(const char* name, const char* version) {
  static constexpr const char* components[] = {"gate",    "aux_loss", "bias_update", "fake_balanced_gate",
                                               "mlp",     "experts",  "moe",         "init",
                                               "metrics", nullptr};
  moeref_port out{};
  out.struct_size = sizeof out;
  out.abi_version = MOEREF_PORT_ABI_VERSION;
  out.name = name;
  out.version = version;
  out.components = components;
  out.passes = MOEREF_FORWARD | MOEREF_BACKWARD;
  out.device = kDLCPU;
  out.ties = MOEREF_TIES_LOWEST_ID;
  out.deterministic = 1;
  out.init_generator = "counter";
  return out;
}

std::int32_t supports_with(const Implementation& implementation, const moeref_call* call, char* reason,
                           std::size_t size) try {
  const auto why_not = implementation.unsupported(call_of(*call));
  if (!why_not) return MOEREF_OK;
  put_text(*why_not, reason, size);
  return MOEREF_NOT_SUPPORTED;
} catch (const std::exception& wrong) {
  put_text(wrong.what(), reason, size);
  return MOEREF_NOT_SUPPORTED;
}

std::int32_t run_with(Implementation& implementation, const moeref_call* call, char* error,
                      std::size_t size) try {
  write_results(*call, implementation.run(call_of(*call)));
  return MOEREF_OK;
} catch (const std::exception& wrong) {
  return give_error(wrong, error, size);
}

}  // namespace moeref
