// Forced judging (VERDICTS.md): what follows a stage is computed from the stage as a port made it, so that
// each stage is judged by itself.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "moeref/evaluation.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

class ForcedStages {
 public:
  /// Forces nothing.
  ForcedStages() = default;
  /// `given` holds the port's stages by name ("stages/logits", ...); `results` takes those of the reference.
  /// Both must outlive this object.
  ForcedStages(const NamedTensors& given, std::map<std::string, BoundedTensor>& results)
      : given_(&given), results_(&results) {}

  /// The port's stage in the type and with the elements of `like`, if it was given in this shape. Its error
  /// is one rounding: a port may show a stage rounded to the type in which the documented system holds it,
  /// and go on with its own finer one.
  std::optional<Bounded> given(const std::string& name, const Bounded& like, const Shape& shape) const;

  /// Where the port's stage was given: keeps `own` as the result of that name, then sets `own` to the port's
  /// stage.
  void settle(const std::string& name, Bounded& own, const Shape& shape) const;

 private:
  const NamedTensors* given_ = nullptr;
  std::map<std::string, BoundedTensor>* results_ = nullptr;
};

}  // namespace moeref
