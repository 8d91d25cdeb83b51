// From which extent on a failure shows.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "moeref/property.hpp"

namespace moeref {

/// For every extent of 8 or more of a failing case: what the same case says with one less and with one more.
/// "wrong from 257 experts on (256 pass)", "wrong at 128 experts, right at 127 and at 129". An extent that
/// fails with one less too is left out, and so are those not reached before the deadline.
std::vector<std::string> thresholds(const Property& property, Implementation& implementation,
                                    const Descriptor& failing,
                                    std::chrono::steady_clock::time_point deadline);

}  // namespace moeref
