#include "reference_cpu/quantization/tests/quantised_operands.hpp"

#include <cmath>
#include <sstream>
#include <utility>

#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {

Call quantised_operands(Component component, DType dtype, std::uint64_t seed, bool ordinary,
                        Accumulator accumulator) {
  const CounterGenerator random(seed, "quantised operands");
  std::uint64_t next = 0;
  const auto below = [&](std::uint64_t n) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(random.uniform(next++) * 0x1p30) % n);
  };
  const bool promoted = facts(accumulator).promotion > 0;
  const WeightFormat weights =
      promoted ? WeightFormat::fp8_e4m3_block128 : kQuantisedFormats[seed % kQuantisedFormats.size()];
  const ActivationFormat activations = !promoted
                                           ? kQuantisedActivations[seed / 2 % kQuantisedActivations.size()]
                                       : seed / 2 % 2 == 0 ? ActivationFormat::fp8_e4m3_group128
                                                           : ActivationFormat::fp8_e4m3_group128_ue8m0;
  const bool cut = facts(weights).cut_blocks && facts(activations).cut_groups && (promoted || below(2) == 0);
  const std::int64_t block =
      std::max<std::int64_t>(facts(weights).cut_blocks ? 32 : facts(weights).block_k, 32);
  MoEConfig c =
      small_config(2 + below(2), 1 + below(2), cut ? 130 + below(promoted ? 99 : 9) : block * (1 + below(2)),
                   cut ? 40 + below(100) : block * (1 + below(2)));
  c.dtype = dtype;
  c.expert_activation = static_cast<ActivationKind>(below(kActivations.size()));
  c.expert_bias = below(2) == 0;
  c.apply_router_weight_after_down = below(2) == 0;
  c.router_weight_on_input = !c.apply_router_weight_after_down && below(3) == 0;
  if (below(3) == 0) c.swiglu_limit = 2.0;
  if (component == Component::moe && below(2) == 0) c.moe_latent_size = std::exchange(c.dim, 24);
  if (component == Component::moe && below(2) == 0) c.n_shared_experts = 1;
  Call call{component, to_json(c), nlohmann::json::object(), {}, !promoted || seed % 4 == 0};
  const double size = ordinary ? 1.0 : std::ldexp(1.0, static_cast<int>(below(9)) - 4);
  const bool wild = !ordinary && below(2) == 0;
  for (const TensorSpec& spec : signature(component, call.config, call.options, {4}, call.backward).inputs) {
    if (!spec.required) continue;
    Tensor tensor(spec.dtype, spec.shape);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      if (spec.dtype == DType::int64) {
        tensor.set(i, static_cast<double>((i + i / 2) % c.n_routed_experts));
        continue;
      }
      double value = random.normal(next++) * (spec.name.starts_with("params/") ? 0.1 : size);
      if (wild && below(9) == 0) value = below(2) == 0 ? 0.0 : value * 100.0;
      tensor.set(i, value);
    }
    call.tensors[spec.name] = std::move(tensor);
  }
  return quantized_call(std::move(call), weights, activations, accumulator);
}

std::string described(const Call& call, const TensorVerdict& failure) {
  std::ostringstream out;
  out << call.config.dump() << "\n  " << failure.tensor << ": " << failure.finding << " r " << failure.ratio
      << " value " << failure.value << " reference " << failure.reference << " bound " << failure.bound;
  return out.str();
}

}  // namespace moeref
