// Losses by expert load beside each other (SPEC 10, batch_loss_coeff and global_loss_coeff): each is the
// auxiliary loss under another rule, and their gradients add up.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "property_tests/router/plain_losses.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Two losses or three; the first one of all tokens, per sequence, or with earlier loads.
void arrange_several(Descriptor& d) {
  if (d.aux == 0.0) d.aux = 0.5;
  d.eval = false;
  if (d.aux_scale == 1.0) d.aux_scale = 4.0;
  if (d.biased_weights && d.correction == Correction::negative) d.correction = Correction::equal;
  if (d.config.batch_loss_coeff == 0.0 && d.config.global_loss_coeff == 0.0) {
    if (d.seed % 4 != 0) d.config.batch_loss_coeff = 0.25;
    if (d.seed % 4 != 1) d.config.global_loss_coeff = 0.75;
    d.config.aux_loss_accumulated = d.seed % 5 == 0;
    if (!d.config.aux_loss_accumulated && d.ranks == 1) d.config.aux_loss_sequences = 2;
  }
  if (d.ranks > 1 || d.config.aux_loss_accumulated) d.config.aux_loss_sequences = 1;
  const std::int64_t sequences = d.config.aux_loss_sequences;
  d.T = std::max<std::int64_t>(2 * sequences, (d.T + sequences - 1) / sequences * sequences);
  if (d.loads == Loads::zero || d.loads == Loads::equal) d.loads = Loads::single;
  d.E = std::max<std::int64_t>(d.E, 2);
}

void expect_value(const Answer& a, const std::string& loss, double coefficient, double want,
                  std::string_view text) {
  if (coefficient > 0.0)
    expect_near(loss, 0, a.at(loss, 0), want, a.bound(loss, 0) + 1e-12 * std::abs(want), text);
}

void values(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, full_call(impl, d));
  const MoEConfig c = moe_config(d);
  const Matrix scores = loss_scores_of(a.call());
  const Tensor& ids = a["outputs/indices"];
  const auto of = [&](LossScope scope) { return plain_loss(a.call(), scores, ids, scope); };
  expect_value(a, "outputs/aux_loss", c.aux_loss_coeff, of(configured_scope(a.call())),
               "the first loss is what it is alone");
  if (c.batch_loss_coeff > 0.0)
    expect_value(a, "outputs/batch_loss", c.batch_loss_coeff, of({1, false}),
                 "the batch loss is of all tokens as one sequence, without its coefficient");
  if (c.global_loss_coeff > 0.0)
    expect_value(a, "outputs/global_loss", c.global_loss_coeff, of({1, true}),
                 "the global loss is of all tokens and earlier loads, without its coefficient");
}

/// The call with the auxiliary loss alone, under a rule.
Call with_one_loss(Call call, double coefficient, LossScope scope) {
  for (const char* field : {"batch_loss_coeff", "global_loss_coeff"}) call.config.erase(field);
  call.config["aux_loss_coeff"] = coefficient;
  call.config["aux_loss_sequences"] = scope.sequences;
  call.config["aux_loss_accumulated"] = scope.earlier;
  if (!scope.earlier || coefficient == 0.0) call.tensors.erase("inputs/accumulated_expert_load");
  return call;
}

void gradients(Implementation& impl, const Descriptor& d) {
  const Answer all(impl, make_call(d, true));
  const MoEConfig c = moe_config(d);
  const Answer none(impl, with_one_loss(all.call(), 0.0, {}));
  std::vector<Answer> alone;
  const auto add = [&](double coefficient, LossScope scope) {
    if (coefficient > 0.0) alone.emplace_back(impl, with_one_loss(all.call(), coefficient, scope));
  };
  add(c.aux_loss_coeff, configured_scope(all.call()));
  add(c.batch_loss_coeff, {1, false});
  add(c.global_loss_coeff, {1, true});
  constexpr std::string_view text = "gradients of several losses are the sum of those of each alone";
  const auto routed_alike = [&](const Answer& other) {
    return none["outputs/indices"] == other["outputs/indices"];
  };
  if (!routed_alike(all) || !std::ranges::all_of(alone, routed_alike))
    throw Discarded("an undecided token was routed in two ways");
  for (const auto& [name, tensor] : none.results()) {
    if (!name.starts_with("grads/")) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      double want = 0.0, bound = all.bound(name, i);
      for (const Answer& one : alone) want += one.at(name, i) - none.at(name, i), bound += one.bound(name, i);
      bound += (static_cast<double>(alone.size()) - 1.0) * none.bound(name, i);
      expect_near(name, i, all.at(name, i) - none.at(name, i), want, bound, text);
    }
  }
}

const Property kSeveralLossProperties[] = {
    {"C17",
     "further_losses",
     {Component::gate},
     PropertyClass::bounded,
     "a batch loss and a global loss are returned beside the auxiliary loss, each of its own tokens and "
     "loads",
     {"batch loss per sequence", "earlier loads forgotten", "the coefficient in the value"},
     arrange_several,
     values,
     Passes::either},
    {"C17",
     "several_losses",
     {Component::gate},
     PropertyClass::bounded,
     "the gradient of several losses is the sum of each one's alone, with its own coefficient",
     {"a loss without gradient", "coefficients swapped", "one coefficient for all"},
     arrange_several,
     gradients,
     Passes::backward},
};

}  // namespace

std::span<const Property> several_losses_properties() { return kSeveralLossProperties; }

}  // namespace moeref
