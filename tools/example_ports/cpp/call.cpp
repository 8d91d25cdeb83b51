#include "call.hpp"

namespace example {
namespace {

std::size_t count(const DLTensor& tensor) {
  std::size_t n = 1;
  for (int axis = 0; axis < tensor.ndim; ++axis) n *= static_cast<std::size_t>(tensor.shape[axis]);
  return n;
}

bool is_float32(const DLTensor& t) { return t.dtype.code == kDLFloat && t.dtype.bits == 32; }
bool is_bfloat16(const DLTensor& t) { return t.dtype.code == kDLBfloat && t.dtype.bits == 16; }

}  // namespace

const DLTensor* Call::find(const std::string& name, const moeref_named_tensor* tensors, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    if (name == tensors[i].name) return &tensors[i].tensor;
  return nullptr;
}

const DLTensor& Call::input(const std::string& name) const {
  const DLTensor* tensor = find(name, call_.inputs, call_.input_count);
  if (!tensor) throw std::runtime_error("the call has no " + name);
  return *tensor;
}

std::vector<float> Call::floats(const std::string& name) const {
  const DLTensor& tensor = input(name);
  std::vector<float> out(count(tensor));
  if (is_float32(tensor)) {
    const float* data = static_cast<const float*>(tensor.data);
    out.assign(data, data + out.size());
  } else if (is_bfloat16(tensor)) {
    const auto* data = static_cast<const std::uint16_t*>(tensor.data);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = from_bfloat16(data[i]);
  } else {
    throw NotSupported(name + " comes in a type that this port does not read");
  }
  return out;
}

Matrix Call::matrix(const std::string& name, long cols) const {
  Matrix out;
  out.v = floats(name);
  out.cols = cols;
  out.rows = static_cast<long>(out.v.size()) / cols;
  return out;
}

std::vector<std::int64_t> Call::integers(const std::string& name) const {
  const DLTensor& tensor = input(name);
  const auto* data = static_cast<const std::int64_t*>(tensor.data);
  return {data, data + count(tensor)};
}

std::vector<bool> Call::real_tokens(const std::string& mask, bool mask_is_padding, long tokens) const {
  std::vector<bool> out(static_cast<std::size_t>(tokens), true);
  if (!has(mask)) return out;
  const auto* data = static_cast<const std::uint8_t*>(input(mask).data);
  for (std::size_t t = 0; t < out.size(); ++t) out[t] = (data[t] != 0) != mask_is_padding;
  return out;
}

void Call::write(const std::string& name, const std::vector<float>& values) const {
  const DLTensor* tensor = find(name, call_.outputs, call_.output_count);
  if (!tensor) return;
  if (values.size() != count(*tensor)) throw std::runtime_error(name + " has another size");
  if (is_float32(*tensor)) {
    float* data = static_cast<float*>(tensor->data);
    for (std::size_t i = 0; i < values.size(); ++i) data[i] = values[i];
  } else if (is_bfloat16(*tensor)) {
    auto* data = static_cast<std::uint16_t*>(tensor->data);
    for (std::size_t i = 0; i < values.size(); ++i) data[i] = to_bfloat16(values[i]);
  } else {
    throw NotSupported(name + " is wanted in a type that this port does not write");
  }
}

void Call::write(const std::string& name, const std::vector<std::int64_t>& values) const {
  const DLTensor* tensor = find(name, call_.outputs, call_.output_count);
  if (!tensor) return;
  if (values.size() != count(*tensor)) throw std::runtime_error(name + " has another size");
  auto* data = static_cast<std::int64_t*>(tensor->data);
  for (std::size_t i = 0; i < values.size(); ++i) data[i] = values[i];
}

void Call::write_total(const std::string& name, std::vector<float> values) const {
  ranks.sum(values);
  write(name, values);
}

}  // namespace example
