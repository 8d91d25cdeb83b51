// Initialisation of an MoE layer's parameters.
//
// Normal(0, init_std): the gate's weight, both expert weights, the shared experts' projections, both latent
// projections. Zero: the gate's biases, the expert biases, the latent biases. Untouched, and so still
// `fill_before`: the biases inside the shared experts and the shared expert gate. Source: _init_weights of
// the documented system's layers.py and experts.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "moeref/config.hpp"
#include "moeref/evaluation.hpp"
#include "moeref/tensor.hpp"

namespace moeref {

/// Every parameter and buffer after initialisation, as "outputs/NAME" with the state dict's names, in the
/// config's dtype (the correction bias in float32). With options.torch_cpu_seed the normals are those of
/// PyTorch's CPU generator, drawn in the order of the documented system's modules (torch_generator.hpp). With
/// options.seed, element i of NAME is init_std times normal i of CounterGenerator(seed, "init/" NAME),
/// rounded once to the dtype: the same draw for every dtype, every other size of the layer, all ranks.
/// Throws InputError unless exactly one of the two seeds is set.
NamedTensors init_weights(const MoEConfig& config, const CallOptions& options);

/// Experts [first_expert, first_expert + count) of "experts.gate_and_up_projs", "experts.down_projs" or an
/// expert bias, under options.seed: the same bits as those rows of init_weights. Throws InputError for
/// another name, for experts outside [0, n_routed_experts], without options.seed.
Tensor init_experts_local(const MoEConfig& config, const CallOptions& options, std::string_view name,
                          std::int64_t first_expert, std::int64_t count);

/// init_weights with bounds: how far an honest implementation of the same generator may be from it that has
/// other elementary functions, in fp32 or finer. Zeros and untouched values are exact.
void init_results(const nlohmann::json& config, const CallOptions& options,
                  std::map<std::string, BoundedTensor>& results);

}  // namespace moeref
