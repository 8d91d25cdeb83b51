#include "moeref/cuda/mlp.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "cuda_impl/adaptors/mlp_tensors.hpp"

namespace moeref::cuda {

std::optional<std::string> unsupported_mlp(const Call& call) { return unsupported_dtype(call, "inputs/x"); }

NamedTensors run_mlp(const Call& call, DeviceContext& device) {
  const moeref::MLPConfig documented = parse_mlp_config(call.config);
  const Tensor& input = require(call.tensors, "inputs/x");
  const DataType type = data_type(input.dtype());
  const MLPConfig c = mlp_config(documented, documented.dim > 0 ? input.size() / documented.dim : 0, type);

  CallTensors tensors(call, device);
  const DeviceTensor x = tensors.upload("inputs/x", type);
  const MLPTensors weights(tensors, "", documented, type);
  const DeviceTensor y = tensors.result("outputs/y", type, input.shape());
  void* saved = device.workspace(mlp_saved_bytes(c));
  Blas blas;
  mlp_forward(c, weights.weights(), {x.data}, y.data, false, saved,
              device.workspace(mlp_forward_workspace_bytes(c)), blas, device.stream());
  if (call.backward) {
    const DeviceTensor dy = tensors.upload("cotangents/y", type);
    MLPGradients gradients = weights.gradients(tensors, "");
    gradients.x = tensors.result("grads/x", type, input.shape()).data;
    mlp_backward(c, weights.weights(), {x.data}, dy.data, saved, gradients,
                 device.workspace(mlp_backward_workspace_bytes(c)), blas, device.stream());
  }
  return tensors.download();
}

}  // namespace moeref::cuda
