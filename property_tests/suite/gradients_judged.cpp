#include "moeref/gradients_judged.hpp"

#include <algorithm>

#include "moeref/component.hpp"

namespace moeref {

NamedTensors GradientsJudged::run(const Call& call) {
  NamedTensors results = implementation_.run(call);
  if (std::ranges::any_of(results, [](const auto& entry) { return entry.first.starts_with("grads/"); }))
    gave_.insert(call.component);
  return results;
}

void GradientsJudged::note(const RunReport& report) {
  const bool judges = report.property->judges_gradients && report.status == RunStatus::passed;
  for (const auto& [component, counts] : report.buckets) {
    if (report.passed > 0) ran_.insert(component);
    if (judges && gave_.contains(component)) judged_.insert(component);
  }
  gave_.clear();
}

std::vector<Component> GradientsJudged::unjudged() const {
  std::vector<Component> out;
  for (const Component component : ran_)
    if (facts(component).has_backward && !judged_.contains(component)) out.push_back(component);
  return out;
}

std::optional<std::string> ForwardOnly::unsupported(const Call& call) const {
  if (call.backward) return "gradients were not asked for";
  return implementation_.unsupported(call);
}

}  // namespace moeref
