// Forced judging (VERDICTS.md): what follows a stage starts from the stage as a port made it, so that each
// stage answers for itself alone.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "moeref/evaluation.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

class ForcedStages {
 public:
  /// Nothing is forced.
  ForcedStages() = default;
  /// `given` holds the port's stages ("stages/logits", ...) under their names; `results` takes the
  /// reference's. Both outlive it.
  ForcedStages(const NamedTensors& given, std::map<std::string, BoundedTensor>& results)
      : given_(&given), results_(&results) {}

  /// The port's stage, as many elements as `like` and in its type, where it was given in this shape. A port
  /// may show a stage rounded to the type in which the documented system holds it and go on with its own
  /// finer one, so that is its error.
  std::optional<Bounded> given(const std::string& name, const Bounded& like, const Shape& shape) const;

  /// Where the port's stage was given: keeps `own` as the result of that name, and puts the port's in its
  /// place.
  void settle(const std::string& name, Bounded& own, const Shape& shape) const;

 private:
  const NamedTensors* given_ = nullptr;
  std::map<std::string, BoundedTensor>* results_ = nullptr;
};

}  // namespace moeref
