#include "moeref/cuda/fake_balanced_gate.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"

namespace moeref::cuda {

std::optional<std::string> unsupported_fake_balanced_gate(const Call& call) {
  const CallOptions o = parse_call_options(call.options);
  // The reference draws from PyTorch's CPU generator, which is sequential; ids would be other ids.
  if (o.fake_gate_noise > 0.0)
    return "noise is " + std::to_string(o.fake_gate_noise) +
           ": the CUDA implementation draws from its own counter-based generator";
  if (parse_moe_config(call.config).n_routed_experts > 1024) return "n_routed_experts is above 1024";
  return unsupported_dtype(call, "inputs/x");
}

NamedTensors run_fake_balanced_gate(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const CallOptions options = parse_call_options(call.options);
  const Tensor& input = require(call.tensors, "inputs/x");
  const DataType type = data_type(input.dtype());
  const FakeGateConfig c{input.extent(0),
                         static_cast<int>(documented.dim),
                         static_cast<int>(documented.n_routed_experts),
                         static_cast<int>(documented.n_activated_experts),
                         static_cast<int>(options.skip_first_n_experts),
                         options.fake_gate_noise,
                         type};
  CallTensors tensors(call, device);
  const DeviceTensor x = tensors.upload("inputs/x", type);
  const Shape slots{c.tokens, c.slots};
  const DeviceTensor ids = tensors.result("outputs/indices", DataType::int32, slots),
                     weights = tensors.result("outputs/weights", type, slots);
  fake_balanced_gate(c, x.data, {}, ids.as<int>(), weights.data, nullptr, device.stream());
  return tensors.download();
}

}  // namespace moeref::cuda
