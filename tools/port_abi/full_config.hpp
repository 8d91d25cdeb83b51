// Configs and call options with every field, so that a port need not know defaults.
#pragma once

#include <nlohmann/json.hpp>

#include "moeref/config.hpp"

namespace moeref {

/// Every field of the struct under its documented name. What has no value is null.
nlohmann::json full_json(const MoEConfig& config);
nlohmann::json full_json(const MLPConfig& config);
nlohmann::json full_json(const CallOptions& options);

}  // namespace moeref
