// What a port does not support, by reason.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace moeref {

/// Reasons and how many calls were declined for each, the most frequent first.
using Refusals = std::vector<std::pair<std::string, std::int64_t>>;

Refusals most_frequent_first(const std::map<std::string, std::int64_t>& counts);

/// "45 x not supported: softmax only", a line for each of the most frequent; the others in one.
std::string refusal_lines(const Refusals& refusals);

}  // namespace moeref
