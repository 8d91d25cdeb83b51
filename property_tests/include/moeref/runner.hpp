// Runs properties over drawn descriptors, shrinks what fails, and counts which inputs were really seen.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moeref/property.hpp"

namespace moeref {

enum class RunStatus : std::uint8_t {
  passed,
  not_supported,  ///< the implementation declares that it computes none of the cases
  vacuous,        ///< nearly all cases were discarded: a failure of the property, not of the implementation
  flaky,          ///< failed, and passed when the same case was run again
  failed,
};

std::string_view name(RunStatus status);

struct RunOptions {
  int cases = 100;
  std::uint64_t seed = 1;
  std::vector<Component> components;  ///< only these; empty = all that the property names
  Declarations declared;              ///< by the implementation
  double most_discarded = 0.9;        ///< a larger share of discarded cases makes a property vacuous
  SizeRange sizes;                    ///< what extents are drawn from; beyond `small` components come in turn
  double shrink_seconds = 1e9;        ///< shrinking ends then, with the smallest case so far
};

/// What was judged by samples, over the cases of a run.
struct Sampling {
  int cases = 0;
  double judged = 0.0, elements = 0.0;  ///< of all results of those cases
  std::int64_t tokens = 0;              ///< the fewest that were drawn in a case, beside the edges
  double copied = 0.0;                  ///< elements of calls whose tokens are copies of sampled ones
  double worst_ratio = 0.0;             ///< the largest r, of calls that were judged whole, too

  /// The probability that an error in this share of a result's rows was seen in a case.
  double seen(double share) const;
};

struct RunReport {
  const Property* property = nullptr;
  RunStatus status = RunStatus::passed;
  int passed = 0, discarded = 0, not_supported = 0;
  std::map<std::string, int> reasons;   ///< why cases were discarded or not supported
  std::map<std::string, int> declined;  ///< of these, why the implementation did not support them
  std::optional<Descriptor> smallest;   ///< the failing case after shrinking
  Finding finding;
  /// The extents of the smallest case at which its failure begins: "wrong from 257 experts on (256 pass)".
  std::vector<std::string> thresholds;
  Sampling sampling;
  double seconds = 0.0;
  std::map<Component, std::map<std::string, int>> buckets;  ///< cases that showed each kind of input
};

/// "--property token_permutation --repeat 'gate T=2 ... seed=7'".
std::string repeat_line(const RunReport& report);

RunReport run_property(const Property& property, Implementation& implementation, const RunOptions& options);

/// The case of a repeat line, without RapidCheck.
Outcome repeat_case(const Property& property, Implementation& implementation, std::string_view line);

/// The kinds of input that a component must have been given over a whole run and was not, for those
/// components that the reports ran at all.
std::vector<std::string> unmet_buckets(const std::vector<RunReport>& reports);

}  // namespace moeref
