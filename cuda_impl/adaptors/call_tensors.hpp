// The named tensors of one call on the device, and its results by name.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/implementation.hpp"

namespace moeref::cuda {

class CallTensors {
 public:
  CallTensors(const Call& call, DeviceContext& device) : call_(call), device_(device) {}

  /// The call's tensor, "inputs/x". Throws InputError where it is missing.
  DeviceTensor upload(const std::string& name, DataType type) {
    return device_.upload(require(call_.tensors, name), type);
  }
  /// The same in its own type.
  DeviceTensor upload(const std::string& name) {
    const Tensor& tensor = require(call_.tensors, name);
    return device_.upload(tensor, data_type(tensor.dtype()));
  }
  /// An absent tensor where it is missing.
  DeviceTensor upload_if_there(const std::string& name, DataType type) {
    return device_.upload(find(call_.tensors, name), type);
  }
  /// An array of the results, "outputs/y".
  DeviceTensor result(const std::string& name, DataType type, Shape shape) {
    results_.emplace_back(name, device_.output(type, std::move(shape)));
    return results_.back().second;
  }
  /// The gradient "grads/NAME" of "params/NAME"; absent where the parameter is.
  DeviceTensor gradient(const std::string& name, const DeviceTensor& parameter) {
    return parameter ? result("grads/" + name, parameter.type, parameter.shape) : DeviceTensor{};
  }

  NamedTensors download() {
    NamedTensors out;
    for (const auto& [name, tensor] : results_) out[name] = device_.download(tensor);
    return out;
  }

 private:
  const Call& call_;
  DeviceContext& device_;
  std::vector<std::pair<std::string, DeviceTensor>> results_;
};

}  // namespace moeref::cuda
