// Routers that are right up to a size: experts, slots and tokens beyond what a kernel was made for.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// The k largest among experts that `sees` has, by the scores that the selection orders.
template <typename F>
NamedTensors chosen_among(Implementation& sound, const Call& call, F&& sees) {
  if (!is(call, C::gate)) return sound.run(call);
  Matrix q = choices_of(call);
  const std::int64_t k = size(call, "n_activated_experts");
  std::int64_t seen = 0;
  for (std::int64_t e = 0; e < q.cols; ++e) seen += sees(e) ? 1 : 0;
  if (seen < k || seen == q.cols) return sound.run(call);
  for (std::int64_t t = 0; t < q.rows; ++t)
    for (std::int64_t e = 0; e < q.cols; ++e)
      if (!sees(e)) q.at(t, e) = -INFINITY;
  return with_choice(sound, call, [&](std::int64_t t, const IdList&) { return largest(q, t, k); });
}

template <std::int64_t N>
NamedTensors no_candidate_from(Implementation& sound, const Call& call) {
  return chosen_among(sound, call, [](std::int64_t e) { return e < N; });
}

/// Warps of 32 lanes with `whole` experts each: those of a last warp that is not full are no candidates.
NamedTensors last_warp_not_full(Implementation& sound, const Call& call) {
  const std::int64_t experts = is(call, C::gate) ? size(call, "n_routed_experts") : 0;
  return chosen_among(sound, call, [&](std::int64_t e) { return experts < 32 || e < experts / 32 * 32; });
}

/// Chosen one after the other, those chosen marked in a mask of 32 bits.
NamedTensors chosen_mask_of_32_bits(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || size(call, "n_routed_experts") <= 32) return sound.run(call);
  const Matrix q = choices_of(call);
  const std::int64_t k = size(call, "n_activated_experts");
  return with_choice(sound, call, [&](std::int64_t t, const IdList&) {
    std::uint32_t mask = 0;
    IdList out;
    for (std::int64_t j = 0; j < k && j < 32; ++j) {
      std::int64_t best = -1;
      for (std::int64_t e = 0; e < q.cols; ++e)
        if (!(mask >> (e % 32) & 1U) && (best < 0 || q.at(t, e) > q.at(t, best))) best = e;
      mask |= 1U << (best % 32);
      out.push_back(best);
    }
    return static_cast<std::int64_t>(out.size()) == k ? out : IdList{};
  });
}

template <std::int64_t N>
NamedTensors gate_tokens_from(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::gate))
    change_rows(out, "outputs/indices",
                [](std::int64_t t, std::int64_t, double id) { return t < N ? id : 0.0; });
  return out;
}

template <std::int64_t N>
NamedTensors gate_slots_from(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::gate))
    change_rows(out, "outputs/indices",
                [](std::int64_t, std::int64_t j, double id) { return j < N ? id : 0.0; });
  return out;
}

template <std::int64_t N>
NamedTensors weights_of_slots_from(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::gate))
    change_rows(out, "outputs/weights",
                [](std::int64_t, std::int64_t j, double w) { return j < N ? w : 0.0; });
  return out;
}

/// A softmax whose sum, or largest logit, is that of the first lanes.
template <std::int64_t N>
NamedTensors softmax_sum_of_lanes(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !facts(score_of(call)).selects_by_logits ||
      !call.config.value("softmax_before_topk", false) || call.config.value("norm_topk_prob", false))
    return sound.run(call);
  Matrix s = scores_of(call);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < std::min(N, s.cols); ++e) sum += s.at(t, e);
    for (std::int64_t e = 0; e < s.cols && s.cols > N; ++e) s.at(t, e) /= sum;
  }
  return with_weights_of(sound, call, s);
}

template <std::int64_t N>
NamedTensors softmax_largest_of_lanes(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate) || !facts(score_of(call)).selects_by_logits) return out;
  const Matrix z = logits_of(call);
  change_rows(out, "outputs/weights", [&](std::int64_t t, std::int64_t, double w) {
    double top = -INFINITY;
    for (std::int64_t e = 0; e < std::min(N, z.cols); ++e) top = std::max(top, z.at(t, e));
    for (std::int64_t e = N; e < z.cols; ++e)
      if (z.at(t, e) - top > 88.7) return kNotANumber;  // exp overflows in float32
    return w;
  });
  return out;
}

NamedTensors mask_of_32_tokens(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::aux_loss, C::experts, C::moe}) ||
      !(call.tensors.contains("inputs/token_mask") || call.tensors.contains("inputs/padding_mask")))
    return sound.run(call);
  return sound.run(with_live(call, [&](std::int64_t t) { return is_live(call, t % 32); }));
}

NamedTensors load_in_8_bits(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : out)
    if (name.starts_with("outputs/expert_load") || name.starts_with("outputs/cumulative_expert_load"))
      change(out, name, [](std::int64_t, double v) { return std::fmod(v, 256.0); });
  return out;
}

NamedTensors ids_in_8_bits(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::gate))
    change(out, "outputs/indices", [](std::int64_t, double id) { return id > 127.0 ? id - 256.0 : id; });
  return out;
}

/// Logits of the last D mod N columns of x.
template <std::int64_t N>
NamedTensors tail_not_contracted(Implementation& sound, const Call& call) {
  const std::int64_t dim = is(call, C::gate) ? size(call, "dim") : 0;
  if (dim <= N || dim % N == 0) return sound.run(call);
  Call other = call;
  map_input(other, "inputs/x", [&](std::int64_t i, double v) { return i % dim < dim / N * N ? v : 0.0; });
  return with_results_of(sound, call, other, "outputs/");
}

/// Groups beyond the 32 bits of their mask: all are kept.
NamedTensors group_mask_of_32_bits(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe}) || size(call, "n_expert_groups") <= 32) return sound.run(call);
  return sound.run(with_config(call, {{"n_limited_groups", size(call, "n_expert_groups")}}));
}

/// One more block of tokens than 4096 has, and that one is not full: its last token is not routed.
NamedTensors last_of_4097_tokens(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t tokens = is(call, C::gate) ? token_count(call) : 0;
  if (tokens > 4096 && tokens < 4160)
    change_rows(out, "outputs/indices",
                [&](std::int64_t t, std::int64_t, double id) { return t + 1 < tokens ? id : 0.0; });
  return out;
}

constexpr std::string_view kIds = "outputs/indices", kWeights = "outputs/weights";

const Mutant kRouterSizeMutants[] = {
    {"group_mask_of_32_bits",
     "",
     "",
     {C::gate, C::moe},
     "the groups that are kept stand in a mask of 32 bits: of more groups all are",
     "F L",
     kIds,
     "routed_sizes",
     group_mask_of_32_bits},
    {"last_of_4097_tokens",
     "",
     "",
     {C::gate},
     "of 4097 to 4159 tokens the last is not routed",
     "F L",
     kIds,
     "every_size",
     last_of_4097_tokens},
    {"candidates_below_128",
     "O39",
     "",
     {C::gate},
     "experts from 128 on are never candidates",
     "F L",
     kIds,
     "",
     no_candidate_from<128>},
    {"candidates_below_64",
     "O39",
     "",
     {C::gate},
     "experts from 64 on are never candidates",
     "F L",
     kIds,
     "",
     no_candidate_from<64>},
    {"candidates_below_32",
     "O39",
     "",
     {C::gate},
     "experts from 32 on are never candidates",
     "F L",
     kIds,
     "",
     no_candidate_from<32>},
    {"candidates_below_512",
     "O39",
     "",
     {C::gate},
     "experts from 512 on are never candidates",
     "F L",
     kIds,
     "",
     no_candidate_from<512>},
    {"last_warp_not_full",
     "",
     "",
     {C::gate},
     "experts of a last warp of 32 that is not full are never candidates",
     "F L",
     kIds,
     "",
     last_warp_not_full},
    {"chosen_mask_of_32_bits",
     "",
     "",
     {C::gate},
     "who is chosen stands in a mask of 32 bits: expert e hides expert e + 32",
     "F L",
     kIds,
     "",
     chosen_mask_of_32_bits},
    {"gate_tokens_beyond_512",
     "O41",
     "",
     {C::gate},
     "tokens from 512 on are not routed",
     "F L",
     kIds,
     "",
     gate_tokens_from<512>},
    {"gate_tokens_beyond_256",
     "O41",
     "",
     {C::gate},
     "tokens from 256 on are not routed",
     "F L",
     kIds,
     "",
     gate_tokens_from<256>},
    {"gate_tokens_beyond_4096",
     "O41",
     "",
     {C::gate},
     "tokens from 4096 on are not routed",
     "F L",
     kIds,
     "",
     gate_tokens_from<4096>},
    {"slots_beyond_8",
     "",
     "",
     {C::gate},
     "top-k has 8 slots: later ones hold expert 0",
     "F L",
     kIds,
     "",
     gate_slots_from<8>},
    {"slots_beyond_16",
     "",
     "",
     {C::gate},
     "top-k has 16 slots: later ones hold expert 0",
     "F L",
     kIds,
     "",
     gate_slots_from<16>},
    {"weights_beyond_8_slots",
     "",
     "",
     {C::gate},
     "weights of slots from 8 on are never written",
     "F L",
     kWeights,
     "",
     weights_of_slots_from<8>},
    {"softmax_sum_of_32_lanes",
     "",
     "",
     {C::gate},
     "the softmax divides by the sum of the first 32 experts",
     "F L",
     kWeights,
     "",
     softmax_sum_of_lanes<32>},
    {"softmax_sum_of_16_lanes",
     "",
     "",
     {C::gate},
     "the softmax divides by the sum of the first 16 experts",
     "F L",
     kWeights,
     "replay_other_experts",
     softmax_sum_of_lanes<16>},
    {"softmax_largest_of_32_lanes",
     "",
     "",
     {C::gate},
     "the largest logit is looked for among the first 32 experts",
     "F L",
     kWeights,
     "",
     softmax_largest_of_lanes<32>},
    {"softmax_largest_of_16_lanes",
     "",
     "",
     {C::gate},
     "the largest logit is looked for among the first 16 experts",
     "F L",
     kWeights,
     "",
     softmax_largest_of_lanes<16>},
    {"mask_of_32_tokens",
     "",
     "",
     {C::gate, C::aux_loss, C::experts, C::moe},
     "the mask is one word of 32 tokens, read again and again",
     "F L",
     "outputs/expert_load outputs/y",
     "",
     mask_of_32_tokens},
    {"load_in_8_bits",
     "",
     "",
     {C::gate, C::aux_loss, C::moe, C::bias_update},
     "loads wrap at 256",
     "F L",
     "outputs/expert_load outputs/cumulative_expert_load_0",
     "every_router_size",
     load_in_8_bits},
    {"ids_in_8_bits", "", "", {C::gate}, "expert ids are signed bytes", "F L", kIds, "", ids_in_8_bits},
    {"gate_tail_of_16",
     "",
     "",
     {C::gate},
     "D mod 16 columns are left out of the logits",
     "F L",
     "outputs/indices outputs/weights",
     "within_bounds",
     tail_not_contracted<16>},
    {"gate_tail_of_32",
     "",
     "",
     {C::gate},
     "D mod 32 columns are left out of the logits",
     "F L",
     "outputs/indices outputs/weights",
     "within_bounds",
     tail_not_contracted<32>},
};

}  // namespace

std::span<const Mutant> router_size_mutants() { return kRouterSizeMutants; }

}  // namespace moeref
