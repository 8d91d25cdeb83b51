// What mutants are made of: a call with something changed, and results with a part of them exchanged.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/mutants/tables.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {

inline constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

// Where mutants show, and the tensors that name those of a bias update.
inline const std::vector<Component> kExperts{Component::experts}, kMlps{Component::experts, Component::mlp},
    kFeedForwards{Component::experts, Component::mlp, Component::moe};
inline constexpr std::string_view kUpdatedBias =
    "outputs/e_score_correction_bias_0 outputs/e_score_correction_bias_1 outputs/e_score_correction_bias_2 "
    "outputs/e_score_correction_bias_5 outputs/indices_1_0 outputs/indices_1_1 outputs/indices_2_0 "
    "outputs/indices_2_1 outputs/indices_3_0 outputs/indices_5_0";

inline bool is(const Call& call, Component component) { return call.component == component; }

/// A call of experts on weights as numbers: most mutants know no other.
inline bool has_weights(const Call& call) {
  return call.component == Component::experts && call.tensors.contains("params/down_projs");
}

/// A whole number of the config.
inline std::int64_t size(const Call& call, const char* field) {
  return call.config.at(field).get<std::int64_t>();
}

/// Elements i of a result, where it is there, changed to f(i, value).
template <typename F>
void change(NamedTensors& results, std::string_view name, F&& f) {
  const auto found = results.find(name);
  if (found == results.end()) return;
  for (std::int64_t i = 0; i < found->second.size(); ++i) found->second.set(i, f(i, found->second[i]));
}

/// A tensor of the call, where it is there, set to one value.
inline void fill(Call& call, std::string_view name, double value) {
  const auto found = call.tensors.find(name);
  if (found != call.tensors.end())
    found->second = filled(found->second.dtype(), found->second.shape(), value);
}

/// The sound results with those whose names start with `prefix` taken from another call.
NamedTensors with_results_of(Implementation& sound, const Call& call, const Call& other,
                             std::string_view prefix);

/// The rank that owns each of a call's tokens, whichever kind of ranks it has.
std::vector<std::int64_t> owners(const Call& call, std::int64_t tokens);

/// The call with all tokens masked but those of the first rank.
Call first_rank_only(const Call& call, const char* mask_stem);

}  // namespace moeref
