// What the properties of the bias update share: names of a round's tensors, and what it did to the bias.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "property_tests/router/router_oracle.hpp"

namespace moeref {

inline std::string round_name(std::string_view stem, std::int64_t step) {
  return std::string(stem) + "_" + std::to_string(step);
}
inline std::string bias_name(std::int64_t step) {
  return round_name("outputs/e_score_correction_bias", step);
}
inline std::string load_name(std::int64_t step) { return round_name("outputs/cumulative_expert_load", step); }
inline std::string batch_name(std::string_view stem, std::int64_t step, std::int64_t micro) {
  return round_name(round_name(stem, step), micro);
}

double bias_before(const Answer& a, std::int64_t step, std::int64_t expert);
/// What a round added to the bias [E].
std::vector<double> bias_delta(const Answer& a, std::int64_t step);

/// Ids are given, each once in a token.
void arrange_given(Descriptor& d);

}  // namespace moeref
