// The example port (example_ports/cpp), which the broken ports wrap: its sources are compiled with its entry
// renamed.
#pragma once

#include <cstdint>
#include <cstring>
#include <list>
#include <string>
#include <vector>

#include "moeref/port.h"

extern "C" const moeref_port* example_port_entry(std::uint32_t abi_version);

namespace broken {

inline const moeref_port& example() { return *example_port_entry(MOEREF_PORT_ABI_VERSION); }

using Run = std::int32_t (*)(const moeref_call*, char*, std::size_t);

/// The example's table with another name and run().
inline const moeref_port* table(const char* name, Run run) {
  static moeref_port port = example();
  port.name = name;
  port.run = run;
  return &port;
}

inline const DLTensor* find(const moeref_named_tensor* tensors, std::size_t count, const std::string& name) {
  for (std::size_t i = 0; i < count; ++i)
    if (name == tensors[i].name) return &tensors[i].tensor;
  return nullptr;
}
inline const DLTensor* input(const moeref_call& call, const std::string& name) {
  return find(call.inputs, call.input_count, name);
}
inline const DLTensor* output(const moeref_call& call, const std::string& name) {
  return find(call.outputs, call.output_count, name);
}

inline std::size_t bytes(const DLTensor& tensor) {
  std::size_t n = tensor.dtype.bits / 8;
  for (int axis = 0; axis < tensor.ndim; ++axis) n *= static_cast<std::size_t>(tensor.shape[axis]);
  return n;
}

inline bool is(const moeref_call& call, const char* component) {
  return std::strcmp(call.component, component) == 0;
}

/// A call with other tensors or another config than the suite's.
class ChangedCall {
 public:
  explicit ChangedCall(const moeref_call& call)
      : call_(call),
        config_(call.config),
        inputs_(call.inputs, call.inputs + call.input_count),
        outputs_(call.outputs, call.outputs + call.output_count) {}

  void replace_in_config(const std::string& from, const std::string& to) {
    if (const std::size_t at = config_.find(from); at != std::string::npos)
      config_.replace(at, from.size(), to);
  }
  void drop_input(const std::string& name) {
    for (std::size_t i = 0; i < inputs_.size(); ++i)
      if (name == inputs_[i].name) inputs_.erase(inputs_.begin() + static_cast<long>(i));
  }
  /// An own copy of an input, to be changed.
  std::vector<char>* copy_input(const std::string& name) { return copy(inputs_, name); }
  /// Outputs go elsewhere.
  void copy_outputs() {
    for (moeref_named_tensor& tensor : outputs_) copy(outputs_, tensor.name);
  }

  const moeref_call& call() {
    call_.config = config_.c_str();
    call_.inputs = inputs_.data();
    call_.input_count = inputs_.size();
    call_.outputs = outputs_.data();
    return call_;
  }

 private:
  std::vector<char>* copy(std::vector<moeref_named_tensor>& tensors, const std::string& name) {
    for (moeref_named_tensor& tensor : tensors) {
      if (name != tensor.name) continue;
      const char* data = static_cast<const char*>(tensor.tensor.data);
      auto& own = copies_.emplace_back(data, data + bytes(tensor.tensor));
      tensor.tensor.data = own.data();
      return &own;
    }
    return nullptr;
  }

  moeref_call call_;
  std::string config_;
  std::vector<moeref_named_tensor> inputs_, outputs_;
  std::list<std::vector<char>> copies_;
};

}  // namespace broken
