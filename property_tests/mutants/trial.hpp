// What became of a mutant.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "moeref/property.hpp"
#include "property_tests/mutants/mutant.hpp"

namespace moeref {

/// A property that failed on a mutant.
struct PropertyKill {
  const Property* property = nullptr;
  std::string line;     ///< for moeref check --property NAME --repeat LINE
  std::string finding;  ///< in words
  bool repeats = true;  ///< the line alone fails again; false where it takes earlier calls
  int cases = 0;        ///< drawn until it failed
};

struct Trial {
  const Mutant* mutant = nullptr;
  int judged = 0, failing = 0;           ///< golden files of its components
  int flagged = 0, flagged_failing = 0;  ///< of these, files that name its bug
  int rightly_named = 0;  ///< failing files whose verdict names a tensor of `first_wrong` first
  std::map<std::string, int> first_named = {};  ///< failing files by the tensor that the verdict names first
  std::vector<PropertyKill> kills = {};
  std::vector<std::string_view> missed = {};  ///< properties of its row that passed
  double seconds = 0.0;

  bool killed() const { return failing > 0 || !kills.empty(); }
};

}  // namespace moeref
