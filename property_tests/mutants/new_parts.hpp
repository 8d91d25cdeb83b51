// What several tables of mutants share: conventions at their defaults, calls with other experts, losses of
// other scores, layers in parts.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "property_tests/mutants/mutant.hpp"
#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {

inline bool is_one_of(const Call& call, std::initializer_list<Component> components) {
  for (const Component c : components)
    if (call.component == c) return true;
  return false;
}
inline bool has_experts(const Call& call) { return has_routed_experts(call.component); }
/// A call whose output is y.
inline bool gives_y(const Call& call) {
  return is_one_of(call, {Component::experts, Component::moe, Component::mlp});
}
inline bool normalises(const Call& call) { return parse_moe_config(call.config).normalises_weights(); }
inline ScoreFunc score_of(const Call& call) { return parse_moe_config(call.config).score_func; }
DType dtype_of(const Call& call);

/// The ranks over which experts are spread; 1 for a call without.
std::int64_t expert_ranks_of(const Call& call);
std::int64_t context_ranks_of(const Call& call);

/// The call with its mask, in whichever mode the component has, set to live(token).
Call with_live(Call call, const std::function<bool(std::int64_t)>& live);

/// The results of a gate or layer call with a convention at its default, for ports that never look at it.
NamedTensors without_convention(Implementation& sound, const Call& call, const char* field);

/// Elements (row, column, value) of a result whose last axis are the columns.
void change_rows(NamedTensors& results, std::string_view name,
                 const std::function<double(std::int64_t, std::int64_t, double)>& f);

/// A floating tensor of the call, where it is there, with f of every element.
void map_input(Call& call, std::string_view name, const std::function<double(std::int64_t, double)>& f);

/// The experts call without the slots that `lost` says.
Call with_slots_lost(Call call, const std::function<bool(std::int64_t)>& lost);

/// The sound results of a gate call whose tokens choose as `choose(token, own)` says; a token whose choice is
/// its own, or empty, keeps the order of its slots.
using IdList = std::vector<std::int64_t>;
NamedTensors with_choice(Implementation& sound, const Call& call,
                         const std::function<IdList(std::int64_t, const IdList&)>& choose);

/// The sound results of a gate call whose weights are those of other scores on the same experts.
NamedTensors with_weights_of(Implementation& sound, const Call& call, const Matrix& weighed);

/// The same with every S changed to f(S).
template <typename F>
Matrix mapped(Matrix m, F&& f) {
  for (double& value : m.values) value = f(value);
  return m;
}

/// S as the loss sees it: normalised where weights are.
Matrix normalised_scores(const Call& call, Matrix scores);

/// The auxiliary loss of other scores on the routing of a gate call's results.
double loss_of_scores(Implementation& sound, const Call& call, const NamedTensors& results,
                      const Matrix& scores);
/// The sound results with that loss, where the call has one.
NamedTensors with_loss_of(Implementation& sound, const Call& call, const Matrix& scores);

/// The layer call with experts that give 0, so that the shared experts alone are left.
Call shared_alone(Call call);

/// left + right - minus for every floating result of `left` that all three have and that begins with one of
/// the prefixes.
void add_difference(NamedTensors& left, const NamedTensors& right, const NamedTensors& minus,
                    std::initializer_list<std::string_view> prefixes);

/// The sound results of bias_update with each round's bias made by `step(bias, load, factor)`, so that later
/// rounds route by it.
using BiasStep = std::function<std::vector<double>(std::vector<double> bias, const std::vector<double>& load,
                                                   double factor)>;
NamedTensors with_bias_step(Implementation& sound, const Call& call, const BiasStep& step);

/// A number in [-1, 1] that depends on i alone.
double scatter(std::int64_t i);

/// Base of the mutants that keep something from call to call.
class Stateful : public Implementation {
 public:
  explicit Stateful(Implementation& sound) : sound_(sound) {}
  std::string name() const override { return "mutant"; }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }

 protected:
  Implementation& sound_;
};

template <typename T>
std::unique_ptr<Implementation> make_stateful(Implementation& sound) {
  return std::make_unique<T>(sound);
}

/// What tells two calls of one size from calls of another: component, config, options and shapes.
std::string sizes_of(const Call& call);

}  // namespace moeref
