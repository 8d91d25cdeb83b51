#include "reference_cpu/quantization/quantized_call.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/quantization/dequantize.hpp"
#include "reference_cpu/quantization/quantize.hpp"

namespace moeref {
namespace {

constexpr std::string_view kField = "weight_format", kActivationField = "activation_format",
                           kAccumulatorField = "accumulator";

/// The experts' two matrices by their names in the call.
std::vector<std::pair<std::string, ExpertsShape>> matrices_of(Component component, const MoEConfig& c) {
  const std::string prefix = component == Component::moe ? "params/experts." : "params/";
  return {{prefix + "gate_and_up_projs", c.up_shape()}, {prefix + "down_projs", c.down_shape()}};
}

/// The numbers in the coarsest of the three types that holds them all.
Tensor held_exactly(const std::vector<double>& values, const Shape& shape, DType first) {
  for (const DType dtype : {first, DType::float32})
    if (std::ranges::all_of(values, [&](double v) { return round_to(dtype, v) == v; }))
      return Tensor::of(shape, std::span<const double>(values)).cast(dtype);
  return Tensor::of(shape, std::span<const double>(values));
}

}  // namespace

Call quantized_call(Call call, WeightFormat format, ActivationFormat activations, Accumulator accumulator) {
  if (!has_routed_experts(call.component))
    throw InputError("component '" + std::string(name(call.component)) + "' has no experts to quantise");
  for (const auto& [name, shape] : matrices_of(call.component, parse_moe_config(call.config))) {
    call.tensors.merge(quantize(format, require(call.tensors, name), name));
    call.tensors.erase(name);
  }
  call.config[std::string(kField)] = moeref::name(format);
  if (activations != ActivationFormat::none)
    call.config[std::string(kActivationField)] = moeref::name(activations);
  if (accumulator != Accumulator::float32)
    call.config[std::string(kAccumulatorField)] = moeref::name(accumulator);
  parse_moe_config(call.config);
  return call;
}

Call dequantized_call(Call call) {
  if (!has_routed_experts(call.component)) return call;
  const MoEConfig c = parse_moe_config(call.config);
  if (c.weight_format == WeightFormat::none) return call;
  for (const auto& [name, s] : matrices_of(call.component, c)) {
    const QuantizedWeights weights = find_quantized(c.weight_format, s, call.tensors, name);
    const std::int64_t experts = weights.codes->extent(0);
    std::vector<double> values(static_cast<std::size_t>(experts * s.k * s.n));
    for (std::int64_t e = 0; e < experts; ++e)
      dequantize(weights, e,
                 std::span(values).subspan(static_cast<std::size_t>(e * s.k * s.n),
                                           static_cast<std::size_t>(s.k * s.n)));
    call.tensors[name] = held_exactly(values, {experts, s.k, s.n}, c.dtype);
    for (const StoredWeights& stored : stored_weights(c.weight_format, s))
      call.tensors.erase(name + std::string(stored.suffix));
  }
  for (const std::string_view field : {kField, kActivationField, kAccumulatorField})
    call.config.erase(std::string(field));
  return call;
}

}  // namespace moeref
