// Calls of a few hand-given numbers, and what the reference makes of them.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/reference.hpp"

namespace moeref {

inline Tensor tensor(DType dtype, Shape shape, std::initializer_list<double> values) {
  return Tensor::of(std::move(shape), std::span<const double>(values.begin(), values.size())).cast(dtype);
}
inline Tensor tensor(Shape shape, std::initializer_list<double> values) {
  return tensor(DType::float64, std::move(shape), values);
}
inline Tensor ids(Shape shape, std::initializer_list<std::int64_t> values) {
  return Tensor::of(std::move(shape), std::span<const std::int64_t>(values.begin(), values.size()));
}
inline Tensor flags(std::initializer_list<bool> values) {
  Tensor out(DType::boolean, {static_cast<std::int64_t>(values.size())});
  std::int64_t i = 0;
  for (const bool v : values) out.set(i++, v ? 1.0 : 0.0);
  return out;
}

/// E experts of which k are chosen, one dimension and one inner column unless told, float64, everything else
/// at its default.
inline MoEConfig small_config(std::int64_t experts, std::int64_t k, std::int64_t dim = 1,
                              std::int64_t inter = 1) {
  MoEConfig c;
  c.n_routed_experts = experts;
  c.n_activated_experts = k;
  c.dim = dim;
  c.inter_dim = inter;
  c.moe_inter_dim = inter;
  c.dtype = DType::float64;
  return c;
}

inline Call small_call(Component component, const MoEConfig& c, NamedTensors tensors, bool backward = false,
                       nlohmann::json options = nlohmann::json::object()) {
  return {component, to_json(c), std::move(options), std::move(tensors), backward};
}

inline std::vector<double> values_of(const Evaluation& e, const std::string& name) {
  return e.results.at(name).value;
}

}  // namespace moeref
