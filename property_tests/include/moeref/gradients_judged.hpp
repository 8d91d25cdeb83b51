// Whose gradients a run of the properties has judged: a run whose properties all pass has shown nothing of a
// component's backward pass where none of them compared it with the formulas.
#pragma once

#include <set>
#include <vector>

#include "moeref/runner.hpp"

namespace moeref {

/// Stands between the properties and the implementation, and notes which components gave gradients.
class GradientsJudged final : public Implementation {
 public:
  explicit GradientsJudged(Implementation& implementation) : implementation_(implementation) {}

  std::string name() const override { return implementation_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override {
    return implementation_.unsupported(call);
  }
  NamedTensors run(const Call& call) override;

  /// After each property.
  void note(const RunReport& report);

  /// Components that have a backward pass and ran, and whose gradients no property that judges them has
  /// passed.
  std::vector<Component> unjudged() const;

 private:
  Implementation& implementation_;
  std::set<Component> gave_, ran_, judged_;
};

/// An implementation that is asked for its forward pass alone.
class ForwardOnly final : public Implementation {
 public:
  explicit ForwardOnly(Implementation& implementation) : implementation_(implementation) {}

  std::string name() const override { return implementation_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override;
  NamedTensors run(const Call& call) override { return implementation_.run(call); }

 private:
  Implementation& implementation_;
};

}  // namespace moeref
