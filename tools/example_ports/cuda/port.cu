// A port whose tensors lie on the GPU: routed experts with SwiGLU, forward, in float32 and bfloat16. Copy it
// and put your kernels in the place of the two here, which are as plain as they can be.
//
// What to know: pointers of a call are device pointers of the current device; work goes on call->stream; the
// suite copies inputs and outputs and waits for the stream, before and after run(). It fills outputs with NaN
// beforehand, so that what a kernel leaves unwritten is found.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "json_fields.hpp"
#include "moeref/port.h"

namespace {

__device__ float number(float v) { return v; }
__device__ float number(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ void set(float& to, float v) { to = v; }
__device__ void set(__nv_bfloat16& to, float v) { to = __float2bfloat16(v); }

/// T tokens, k slots each, E experts of width I.
template <class T>
struct Experts {
  const T *x, *up, *down;    // [T, D], [E, D, 2I] with the gate's columns first, [E, I, D]
  const std::int64_t* ids;   // [T, k]
  const float* weights;      // [T, k]
  const std::uint8_t* mask;  // [T], or null: all tokens are real
  T *activation, *y;         // [T, k, I], [T, D]
  std::int64_t tokens;
  int slots, experts, dim, width;
  bool weight_after_down;

  /// -1 where the slot goes nowhere.
  __device__ std::int64_t expert(std::int64_t token, int slot) const {
    if (mask != nullptr && mask[token] == 0) return -1;
    const std::int64_t id = ids[token * slots + slot];
    return id < experts ? id : -1;
  }
};

/// activation[t, j] = silu(x[t] W_gate) (x[t] W_up), times the routing weight unless that comes later. A
/// block a slot.
template <class T>
__global__ void activate(const Experts<T> e) {
  const std::int64_t token = blockIdx.x / e.slots;
  const int slot = static_cast<int>(blockIdx.x % e.slots);
  const std::int64_t expert = e.expert(token, slot);
  if (expert < 0) return;
  const T* up = e.up + expert * e.dim * 2 * e.width;
  for (int i = threadIdx.x; i < e.width; i += blockDim.x) {
    float gate = 0, value = 0;
    for (int d = 0; d < e.dim; ++d) {
      const float x = number(e.x[token * e.dim + d]);
      gate += x * number(up[std::int64_t{d} * 2 * e.width + i]);
      value += x * number(up[std::int64_t{d} * 2 * e.width + e.width + i]);
    }
    const float weight = e.weight_after_down ? 1.0f : e.weights[token * e.slots + slot];
    set(e.activation[(token * e.slots + slot) * e.width + i], gate / (1.0f + expf(-gate)) * value * weight);
  }
}

/// y[t] = sum over the slots of activation[t, j] W_down, in their order. A block a token.
template <class T>
__global__ void combine(const Experts<T> e) {
  const std::int64_t token = blockIdx.x;
  for (int d = threadIdx.x; d < e.dim; d += blockDim.x) {
    float sum = 0;
    for (int slot = 0; slot < e.slots; ++slot) {
      const std::int64_t expert = e.expert(token, slot);
      if (expert < 0) continue;
      float row = 0;
      for (int i = 0; i < e.width; ++i)
        row += number(e.activation[(token * e.slots + slot) * e.width + i]) *
               number(e.down[(expert * e.width + i) * e.dim + d]);
      sum += row * (e.weight_after_down ? e.weights[token * e.slots + slot] : 1.0f);
    }
    set(e.y[token * e.dim + d], sum);
  }
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Null where the call has no such tensor.
const DLTensor* find(const moeref_named_tensor* tensors, std::size_t count, const char* name) {
  for (std::size_t i = 0; i < count; ++i)
    if (std::strcmp(tensors[i].name, name) == 0) return &tensors[i].tensor;
  return nullptr;
}
const DLTensor* input(const moeref_call& c, const char* name) { return find(c.inputs, c.input_count, name); }

template <class T>
void compute(const moeref_call& c) {
  const DLTensor &x = *input(c, "inputs/x"), &ids = *input(c, "inputs/indices"),
                 &down = *input(c, "params/down_projs");
  const DLTensor* mask = input(c, "inputs/token_mask");
  Experts<T> e{};
  e.x = static_cast<const T*>(x.data);
  e.up = static_cast<const T*>(input(c, "params/gate_and_up_projs")->data);
  e.down = static_cast<const T*>(down.data);
  e.ids = static_cast<const std::int64_t*>(ids.data);
  e.weights = static_cast<const float*>(input(c, "inputs/weights")->data);
  e.mask = mask ? static_cast<const std::uint8_t*>(mask->data) : nullptr;
  e.y = static_cast<T*>(find(c.outputs, c.output_count, "outputs/y")->data);
  e.tokens = x.shape[0], e.dim = static_cast<int>(x.shape[1]), e.slots = static_cast<int>(ids.shape[1]);
  e.experts = static_cast<int>(down.shape[0]), e.width = static_cast<int>(down.shape[1]);
  e.weight_after_down = example::JsonFields(c.config).flag("apply_router_weight_after_down");
  if (e.tokens == 0) return;
  const auto stream = static_cast<cudaStream_t>(c.stream);
  const auto slots = static_cast<unsigned>(e.tokens * e.slots), tokens = static_cast<unsigned>(e.tokens);
  void* activation = nullptr;
  check(cudaMallocAsync(&activation, sizeof(T) * slots * static_cast<std::size_t>(e.width), stream));
  e.activation = static_cast<T*>(activation);
  activate<T><<<slots, 128, 0, stream>>>(e);
  combine<T><<<tokens, 128, 0, stream>>>(e);
  check(cudaGetLastError());
  check(cudaFreeAsync(activation, stream));
}

void put_text(const char* text, char* out, std::size_t size) {
  if (size == 0) return;
  std::strncpy(out, text, size - 1);
  out[size - 1] = '\0';
}

bool is_of(const moeref_call& c, const char* name, DLDataTypeCode code, int bits) {
  const DLDataType type = input(c, name)->dtype;
  return type.code == code && type.bits == bits;
}

/// Asked before every run(), so that a case this port does not have is no failure.
std::int32_t supports(const moeref_call* c, char* reason, std::size_t size) {
  const example::JsonFields config(c->config);
  const char* missing = nullptr;
  if (config.text("expert_activation") != "swiglu" || config.number("swiglu_limit") > 0.0f)
    missing = "no activation but swiglu without a limit";
  else if (config.flag("expert_bias"))
    missing = "no biases";
  else if (!is_of(*c, "inputs/weights", kDLFloat, 32))
    missing = "no routing weights but in float32";
  for (const char* name : {"inputs/x", "params/gate_and_up_projs", "params/down_projs"})
    if (input(*c, name)->dtype.bits != input(*c, "inputs/x")->dtype.bits) missing = "no mixed types";
  if (!missing) return MOEREF_OK;
  put_text(missing, reason, size);
  return MOEREF_NOT_SUPPORTED;
}

// No exception may leave a port.
std::int32_t run(const moeref_call* c, char* error, std::size_t size) {
  try {
    if (is_of(*c, "inputs/x", kDLBfloat, 16))
      compute<__nv_bfloat16>(*c);
    else
      compute<float>(*c);
    return MOEREF_OK;
  } catch (const std::exception& wrong) {
    put_text(wrong.what(), error, size);
    return MOEREF_ERROR;
  }
}

constexpr const char* kComponents[] = {"experts", nullptr};
constexpr const char* kDTypes[] = {"float32", "bfloat16", nullptr};

}  // namespace

extern "C" MOEREF_PORT_EXPORT const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port table{};
    table.struct_size = sizeof table;
    table.abi_version = MOEREF_PORT_ABI_VERSION;
    table.name = "CUDA example";
    table.version = "1.0";
    table.components = kComponents;
    table.dtypes = kDTypes;
    table.passes = MOEREF_FORWARD;
    table.device = kDLCUDA;
    table.accumulation = "float32";
    table.deterministic = 1;
    table.max_ranks = 1;
    table.supports = supports;
    table.run = run;
    return table;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
