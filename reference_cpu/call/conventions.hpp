// Which conventions (config fields that the documented system does not have) a call depends on: who does not
// know one must not be judged by it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

/// Every convention, in the order of the config's table: names of fields, then those of activations.
std::vector<std::string_view> all_conventions();

/// Those that the call's component reads and that are not at their defaults. Throws InputError for a bad
/// config.
std::vector<std::string_view> conventions_of(const Call& call);

/// "PORT does not declare the convention 'norm_eps', which is 1e-06 here" for the first one that is not among
/// `declared`, or nothing.
std::optional<std::string> undeclared_convention(const Call& call, std::string_view port,
                                                 std::span<const std::string> declared);

}  // namespace moeref
