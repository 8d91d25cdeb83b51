// A request of the host's socket for a measurement.
#pragma once

#include <nlohmann/json.hpp>

#include "moeref/port.h"

namespace moeref {

/// Asks the port's bench(); the host's answer.
nlohmann::json hosted_bench(const moeref_port& port, const nlohmann::json& request);

}  // namespace moeref
