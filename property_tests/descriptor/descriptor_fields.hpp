// The fields of a descriptor, each once, with the word that stands for it in a line. Printing, parsing and
// shrinking go through this table. Config fields whose rows say how they are drawn come by themselves.
#pragma once

#include "moeref/descriptor.hpp"
#include "reference_cpu/call/config_fields.hpp"

namespace moeref {

/// visit(word, member, what) for every field but the component and the seed, in the order of shrinking:
/// sizes, then features, then how values are drawn. Sizes shrink step by step, what the implementation
/// declares not at all, everything else goes back to its default at once.
enum class FieldKind { size, feature, declared };

template <typename AnyDescriptor, typename Visit>
void visit_fields(AnyDescriptor& d, Visit&& visit) {
  constexpr auto size = FieldKind::size;
  constexpr auto feature = FieldKind::feature;
  visit("ranks", d.ranks, size);
  visit("T", d.T, size);
  visit("batch", d.batch, size);
  visit("E", d.E, size);
  visit("k", d.k, size);
  visit("groups", d.groups, size);
  visit("limited", d.limited, size);
  visit("D", d.D, size);
  visit("I", d.I, size);
  visit("latent", d.latent, size);
  visit("shared", d.shared, size);
  visit("steps", d.steps, size);
  visit("micro", d.micro, size);
  visit("skip", d.skip, size);
  visit("rows", d.rows, size);
  visit("rank_kind", d.rank_kind, feature);
  visit("all_to_all", d.all_to_all, feature);
  visit("spread", d.spread, feature);
  visit("score", d.score, feature);
  visit("before_topk", d.before_topk, feature);
  visit("norm", d.norm, feature);
  visit("router_bias", d.router_bias, feature);
  visit("weights_fp32", d.weights_fp32, feature);
  visit("biased_weights", d.biased_weights, feature);
  visit("replay", d.replay, feature);
  visit("frozen", d.frozen, feature);
  visit("eval", d.eval, feature);
  visit("scale", d.scale, feature);
  visit("aux", d.aux, feature);
  visit("aux_scale", d.aux_scale, feature);
  visit("factor", d.factor, feature);
  visit("correction", d.correction, feature);
  visit("fake_gate", d.fake_gate, feature);
  visit("noise", d.noise, feature);
  visit("activation", d.activation, feature);
  visit("expert_bias", d.expert_bias, feature);
  visit("after_down", d.after_down, feature);
  visit("shared_gate", d.shared_gate, feature);
  visit("shared_relu2", d.shared_relu2, feature);
  visit("limit", d.limit, feature);
  visit("std", d.std, feature);
  visit("dtype", d.dtype, feature);
  visit("precision", d.precision, feature);
  visit("mask", d.mask, feature);
  visit("ids", d.ids, feature);
  visit("loads", d.loads, feature);
  visit("poison", d.poison, feature);
  visit("logits", d.logits, feature);
  visit("values", d.values, feature);
  visit("products", d.products, FieldKind::declared);
  visit_config_fields(d.config, [&](const auto& row, auto& member) {
    if constexpr (std::remove_cvref_t<decltype(row)>::drawn) visit(row.name, member, feature);
  });
}

}  // namespace moeref
