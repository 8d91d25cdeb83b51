// Mutants against properties.
#pragma once

#include <optional>

#include "moeref/dtype.hpp"
#include "property_tests/mutants/trial.hpp"

namespace moeref {

struct PropertyTrialOptions {
  int cases = 200;  ///< drawn per property until one fails
  std::uint64_t seed = 7;
  std::optional<DType> only;  ///< the mutants are ports of this dtype alone
  bool all = false;           ///< every property of the mutant's components, also after one failed
};

/// Draws cases as run_property() does, without its shrinking, which takes one thread at a time. Where a case
/// fails on the mutant its line is read back: the sound implementation must not fail there, else this throws
/// std::logic_error. Nothing where none fails.
std::optional<PropertyKill> try_property(const Mutant& mutant, const Property& property,
                                         const PropertyTrialOptions& options);

/// First the properties that the row names, all of them; then, where neither these nor a golden file has
/// killed the mutant, the others of its components until one does.
void try_properties(Trial& trial, const PropertyTrialOptions& options);

}  // namespace moeref
