#include "reference_cpu/call/conventions.hpp"

#include <algorithm>

#include "reference_cpu/call/config_fields.hpp"

namespace moeref {

std::vector<std::string_view> all_conventions() {
  std::vector<std::string_view> out;
  const MoEConfig defaults;
  visit_config_fields(defaults, [&](const auto& row, const auto&) {
    if (row.convention) out.push_back(row.name);
  });
  for (const ActivationFacts& row : kActivations)
    if (row.convention) out.push_back(row.name);
  return out;
}

namespace {

template <typename Config>
void add_fields(const Config& config, Component component, std::vector<std::string_view>& out) {
  const Config defaults;
  visit_config_fields(defaults, [&](const auto& row, const auto& fallback) {
    if (row.convention && reads(row.readers, component) && config.*row.member != fallback)
      out.push_back(row.name);
  });
}

void add_activation(ActivationKind activation, std::vector<std::string_view>& out) {
  const ActivationFacts& row = facts(activation);
  if (row.convention && std::ranges::find(out, row.name) == out.end()) out.push_back(row.name);
}

}  // namespace

std::vector<std::string_view> conventions_of(const Call& call) {
  std::vector<std::string_view> out;
  if (call.component == Component::mlp) {
    const MLPConfig config = parse_mlp_config(call.config);
    add_fields(config, call.component, out);
    add_activation(config.activation, out);
    return out;
  }
  const MoEConfig config = parse_moe_config(call.config);
  add_fields(config, call.component, out);
  if (has_routed_experts(call.component)) add_activation(config.expert_activation, out);
  if (call.component == Component::moe && config.n_shared_experts > 0)
    add_activation(config.shared_expert_activation, out);
  return out;
}

std::optional<std::string> undeclared_convention(const Call& call, std::string_view port,
                                                 std::span<const std::string> declared) {
  for (const std::string_view name : conventions_of(call))
    if (std::ranges::find(declared, name) == declared.end())
      return std::string(port) + " does not declare the convention '" + std::string(name) + "', which is " +
             (call.config.contains(name) ? call.config.at(std::string(name)).dump() : "the activation") +
             " here";
  return std::nullopt;
}

}  // namespace moeref
