// Where a report was made.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace moeref {

/// Title and text of each fact: compiler, processor, operating system. Nothing that changes from run to run.
std::vector<std::pair<std::string, std::string>> environment();

}  // namespace moeref
