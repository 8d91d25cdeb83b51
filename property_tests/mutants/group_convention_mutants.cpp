// A port that reads a convention of SPEC 10 on groups wrongly: how many of a group's experts its score sums.
#include <algorithm>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

NamedTensors group_sum_rounds_up(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.config.value("group_score", "") != "topk_over_g_sum")
    return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  if (!c.grouped()) return sound.run(call);
  const std::int64_t k = c.n_activated_experts, g = c.n_limited_groups,
                     size = c.n_routed_experts / c.n_expert_groups;
  const std::int64_t up = std::min((k + g - 1) / g, size);
  if (up == k / g || up > 2) return sound.run(call);
  return sound.run(with_config(call, {{"group_score", "top2_sum"}}));
}

}  // namespace

std::span<const Mutant> group_convention_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "group_sum_rounds_up",
       .components = {Component::gate},
       .does = "k / g is rounded up where a group's score is the sum of its k / g largest",
       .first_wrong = "outputs/indices",
       .property = "group_rule",
       .run = group_sum_rounds_up},
  };
  return kRows;
}

}  // namespace moeref
