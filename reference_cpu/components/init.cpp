#include "reference_cpu/components/init.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/arithmetic/torch_generator.hpp"

namespace moeref {
namespace {

// The drawn parameters in the documented system's order: Module.apply visits children before their parent, in
// the order in which they were registered, and each visit draws the parameters that the module owns.
constexpr std::array<std::string_view, 8> kDrawn{"gate.weight",
                                                 "experts.gate_and_up_projs",
                                                 "experts.down_projs",
                                                 "shared_experts.down_proj.weight",
                                                 "shared_experts.up_proj.weight",
                                                 "shared_experts.gate_proj.weight",
                                                 "fc1_latent_proj.weight",
                                                 "fc2_latent_proj.weight"};

constexpr std::array<std::string_view, 4> kUntouched{
    "shared_expert_gate.weight", "shared_experts.gate_proj.bias", "shared_experts.up_proj.bias",
    "shared_experts.down_proj.bias"};

constexpr std::array<std::string_view, 3> kOnes{"gate.per_expert_scale", "gate.input_scale",
                                                "latent_norm.weight"};

constexpr std::string_view kOutputs = "outputs/";

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<TensorSpec> parameters(const MoEConfig& config, const CallOptions& options) {
  return signature(Component::init, to_json(config), {{"fake_balanced_gate", options.fake_balanced_gate}}, {},
                   false)
      .outputs;
}

/// Elements [first, first + out.size()) of the named parameter.
void fill_normal(std::uint64_t seed, std::string_view name, double std, std::int64_t first, Tensor& out) {
  const CounterGenerator generator(seed, "init/" + std::string(name));
  std::array<double, 4096> chunk;
  for (std::int64_t done = 0; done < out.size();) {
    const auto count = std::min<std::int64_t>(chunk.size(), out.size() - done);
    generator.normals(static_cast<std::uint64_t>(first + done),
                      std::span(chunk.data(), static_cast<std::size_t>(count)));
    for (std::int64_t i = 0; i < count; ++i) out.set(done + i, std * chunk[static_cast<std::size_t>(i)]);
    done += count;
  }
}

std::uint64_t counter_seed(const CallOptions& options) {
  if (!options.seed) throw InputError("seed is missing: want the seed of the counter-based generator");
  return *options.seed;
}

}  // namespace

NamedTensors init_weights(const MoEConfig& config, const CallOptions& options) {
  if (options.torch_cpu_seed.has_value() == options.seed.has_value())
    throw InputError(options.seed ? "seed and torch_cpu_seed are both set: want one of them"
                                  : "neither seed nor torch_cpu_seed is set: want one of them");
  NamedTensors out;
  for (const TensorSpec& spec : parameters(config, options)) {
    Tensor& tensor = out.emplace(spec.name, Tensor(spec.dtype, spec.shape)).first->second;
    const std::string_view name = std::string_view(spec.name).substr(kOutputs.size());
    if (contains(kUntouched, name) || contains(kOnes, name)) {
      for (std::int64_t i = 0; i < tensor.size(); ++i)
        tensor.set(i, contains(kOnes, name) ? 1.0 : options.fill_before);
    } else if (options.seed && contains(kDrawn, name)) {
      fill_normal(*options.seed, name, options.init_std, 0, tensor);
    }
  }
  if (options.seed) return out;

  TorchGenerator generator(*options.torch_cpu_seed);
  for (const std::string_view name : kDrawn)
    if (const auto found = out.find(std::string(kOutputs) + std::string(name)); found != out.end())
      found->second = generator.normal(found->second.dtype(), found->second.shape(), 0.0, options.init_std);
  return out;
}

Tensor init_experts_local(const MoEConfig& config, const CallOptions& options, std::string_view name,
                          std::int64_t first_expert, std::int64_t count) {
  const std::int64_t experts = config.experts_with_weights();
  if (first_expert < 0 || count < 0 || count > experts - first_expert)
    throw InputError("experts [" + std::to_string(first_expert) + ", +" + std::to_string(count) +
                     ") are not among the " + std::to_string(experts) + " that have parameters");
  const std::uint64_t seed = counter_seed(options);
  for (const TensorSpec& spec : parameters(config, options)) {
    if (!name.starts_with("experts.") || spec.name.substr(kOutputs.size()) != name) continue;
    Shape shape = spec.shape;
    shape[0] = count;
    Tensor out(spec.dtype, shape);
    const std::int64_t per_expert = element_count(spec.shape) / experts;
    if (contains(kDrawn, name)) fill_normal(seed, name, options.init_std, first_expert * per_expert, out);
    return out;
  }
  throw InputError("'" + std::string(name) + "' is no parameter of this config's experts");
}

void init_results(const nlohmann::json& config, const CallOptions& options,
                  std::map<std::string, BoundedTensor>& results) {
  for (const auto& [name, tensor] : init_weights(parse_moe_config(config), options)) {
    BoundedTensor out{tensor.dtype(), tensor.shape(), tensor.doubles(), {}};
    out.bound.resize(out.value.size());
    if (contains(kDrawn, std::string_view(name).substr(kOutputs.size()))) {
      // PyTorch draws 16-bit tensors in 16-bit arithmetic; ours are rounded once, at the end. The radius is
      // at most 8.6, the angle at most 2 pi with one rounding, and few roundings follow.
      const double stored = unit_roundoff(tensor.dtype()),
                   computed = std::max(unit_roundoff(DType::float32), options.seed ? 0.0 : stored);
      for (std::size_t i = 0; i < out.value.size(); ++i)
        out.bound[i] =
            static_cast<float>(64.0 * computed * options.init_std + 2.0 * stored * std::abs(out.value[i]));
    }
    results.insert_or_assign(name, std::move(out));
  }
}

}  // namespace moeref
