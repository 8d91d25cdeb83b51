#include "moeref/cuda/init.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"

namespace moeref::cuda {
namespace {

/// Left as they were (SPEC.md 7): the biases of the shared experts' MLP and the shared expert gate.
constexpr std::array<std::string_view, 4> kUntouched{
    "shared_expert_gate.weight", "shared_experts.gate_proj.bias", "shared_experts.up_proj.bias",
    "shared_experts.down_proj.bias"};

}  // namespace

std::optional<std::string> unsupported_init(const Call& call) {
  if (parse_call_options(call.options).torch_cpu_seed)
    return "torch_cpu_seed is set: the CUDA implementation draws from the counter-based generator, by 'seed'";
  const MoEConfig config = parse_moe_config(call.config);
  for (const auto& [field, dtype] :
       {std::pair{"dtype", config.dtype}, std::pair{"gate_dtype", config.gate_param_dtype()}})
    if (!is_computed(dtype))
      return "config field '" + std::string(field) + "' is " + std::string(name(dtype)) +
             ": the CUDA implementation initialises float32, bfloat16 and float16";
  return std::nullopt;
}

NamedTensors run_init(const Call& call, DeviceContext& device) {
  const CallOptions options = parse_call_options(call.options);
  if (!options.seed) throw InputError("seed is missing: want the seed of the counter-based generator");
  CallTensors tensors(call, device);
  for (const TensorSpec& spec : signature(call).outputs) {
    const std::string parameter = spec.name.substr(std::string("outputs/").size());
    const DataType type = data_type(spec.dtype);
    const DeviceTensor out = tensors.result(spec.name, type, spec.shape);
    const std::size_t bytes = static_cast<std::size_t>(out.size()) * bytes_of(type);
    if (std::find(kUntouched.begin(), kUntouched.end(), parameter) != kUntouched.end()) {
      Tensor before(spec.dtype, spec.shape);
      for (std::int64_t i = 0; i < before.size(); ++i) before.set(i, options.fill_before);
      check(cudaMemcpyAsync(out.data, before.bytes().data(), bytes, cudaMemcpyHostToDevice, device.stream()),
            "cudaMemcpyAsync");
      check(cudaStreamSynchronize(device.stream()), "upload");
    } else if (parameter.ends_with("bias")) {
      check(cudaMemsetAsync(out.data, 0, bytes, device.stream()), "cudaMemsetAsync");
    } else {
      init_normal(*options.seed, parameter, options.init_std, 0, out.size(), type, out.data, device.stream());
    }
  }
  return tensors.download();
}

}  // namespace moeref::cuda
