#include "tools/bench/measurement_json.hpp"

#include <array>
#include <cmath>

#include "moeref/error.hpp"

namespace moeref::bench {
namespace {

using nlohmann::json;

struct Time {
  const char* name;
  double Measurement::*figure;
};
constexpr std::array kTimes{Time{"median_ms", &Measurement::median_ms},
                            Time{"least_ms", &Measurement::least_ms}, Time{"most_ms", &Measurement::most_ms}};

struct Figure {
  const char* name;
  std::optional<double> Measurement::*figure;
};
constexpr std::array kFigures{Figure{"dense_ms", &Measurement::dense_ms},
                              Figure{"dense_moved", &Measurement::dense_moved},
                              Figure{"floor_ms", &Measurement::floor_ms},
                              Figure{"memory_bytes", &Measurement::memory_bytes},
                              Figure{"kept_bytes", &Measurement::kept_bytes},
                              Figure{"least_kept_bytes", &Measurement::least_kept_bytes},
                              Figure{"imbalance", &Measurement::imbalance},
                              Figure{"sm_mhz", &Measurement::sm_mhz},
                              Figure{"watts", &Measurement::watts},
                              Figure{"celsius", &Measurement::celsius}};

constexpr const char *kForward = "forward", *kBoth = "forward+backward";

[[noreturn]] void wrong(const char* field, const json& value, const char* want) {
  throw InputError("'" + std::string(field) + "' is " +
                   value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 80) + ": want " +
                   want);
}

/// Null where the field is not there.
json field(const json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() ? json() : *it;
}

double number(const char* name, const json& value, double least, const char* want) {
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < least)
    wrong(name, value, want);
  return value.get<double>();
}

}  // namespace

Layer parse_layer(const json& request) {
  Layer layer;
  layer.config = parse_moe_config(field(request, "config"));
  layer.options = parse_call_options(field(request, "options"));
  const json tokens = field(request, "tokens");
  if (!tokens.is_number_integer() || tokens.get<std::int64_t>() < 1)
    wrong("tokens", tokens, "an integer of 1 or more");
  layer.tokens = tokens.get<std::int64_t>();
  return layer;
}

json to_json(const Measurement& m) {
  json out{{"pass", m.backward ? kBoth : kForward}};
  for (const auto& [name, figure] : kTimes) out[name] = m.*figure;
  for (const auto& [name, figure] : kFigures)
    if (m.*figure) out[name] = *(m.*figure);
  if (m.kernels) out["kernels"] = *m.kernels;
  return out;
}

Measurement parse_measurement(const json& answer) {
  if (!answer.is_object()) throw InputError("a measurement is no JSON object");
  Measurement m;
  const json pass = field(answer, "pass");
  if (pass != kForward && pass != kBoth) wrong("pass", pass, "\"forward\" or \"forward+backward\"");
  m.backward = pass == kBoth;
  constexpr double kLeastTime = 1e-9;
  for (const auto& [name, figure] : kTimes)
    m.*figure = number(name, field(answer, name), kLeastTime, "milliseconds, more than 0");
  for (const auto& [name, figure] : kFigures)
    if (const json value = field(answer, name); !value.is_null())
      m.*figure = number(name, value, 0.0, "a number of 0 or more");
  if (const json kernels = field(answer, "kernels"); !kernels.is_null()) {
    if (!kernels.is_string()) wrong("kernels", kernels, "a text");
    m.kernels = kernels.get<std::string>();
  }
  return m;
}

}  // namespace moeref::bench
