// Layers and measurements as JSON, between `moeref bench` and a port's bench() (moeref/port.h).
#pragma once

#include <nlohmann/json.hpp>

#include "tools/bench/measurement.hpp"

namespace moeref::bench {

/// Of a request to measure. Throws InputError naming the field that is wrong.
Layer parse_layer(const nlohmann::json& request);

/// All figures that there are, by the names of `moeref bench --json`.
nlohmann::json to_json(const Measurement& measurement);

/// Of an answer. Throws InputError naming the field that is wrong; the times must be positive.
Measurement parse_measurement(const nlohmann::json& answer);

}  // namespace moeref::bench
