// Wrong implementations: the CPU reference with one bug put in. A suite that does not fail on them tests
// nothing.
#pragma once

#include <span>
#include <string_view>

#include "moeref/implementation.hpp"

namespace moeref {

struct PlantedBug {
  std::string_view name;
  std::string_view flag;      ///< its row in the catalogue of bugs, where it has one
  std::string_view property;  ///< must fail on it
  NamedTensors (*run)(Implementation& sound, const Call& call);
};

std::span<const PlantedBug> planted_router_bugs();
std::span<const PlantedBug> planted_expert_bugs();
std::span<const PlantedBug> planted_gradient_bugs();
std::span<const PlantedBug> planted_rank_bugs();
std::span<const PlantedBug> planted_layer_bugs();

/// `sound` with the bug.
class BuggyImplementation final : public Implementation {
 public:
  BuggyImplementation(Implementation& sound, const PlantedBug& bug) : sound_(sound), bug_(bug) {}
  std::string name() const override { return "planted: " + std::string(bug_.name); }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override { return bug_.run(sound_, call); }

 private:
  Implementation& sound_;
  const PlantedBug& bug_;
};

}  // namespace moeref
