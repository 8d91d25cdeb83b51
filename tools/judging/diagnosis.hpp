// Diagnosis by convention: results that are wrong under a case's own rules are judged once more under rules
// that other implementations follow.
#pragma once

#include <string>

#include "moeref/verdict.hpp"

namespace moeref {

/// "discarded_groups = minus_infinity": the rule, or the two together, under which the results pass as a
/// whole; empty where there is none. Rules that do not apply to the call, or say the same, are not tried.
/// Calls whose reference takes long are not diagnosed.
std::string convention_followed(const Call& call, const NamedTensors& results, const JudgeOptions& options);

}  // namespace moeref
