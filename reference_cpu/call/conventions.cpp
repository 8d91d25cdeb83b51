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

std::vector<std::string_view> conventions_of(const Call& call) {
  std::vector<std::string_view> out;
  if (call.component == Component::mlp) return out;
  const MoEConfig defaults, config = parse_moe_config(call.config);
  visit_config_fields(defaults, [&](const auto& row, const auto& fallback) {
    if (row.convention && reads(row.readers, call.component) && config.*row.member != fallback)
      out.push_back(row.name);
  });
  if (const ActivationFacts& row = facts(config.expert_activation);
      row.convention && has_routed_experts(call.component))
    out.push_back(row.name);
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
