// Bugs that show from a size on, or where two sizes agree (golden/recipes/sizes.json).
#include <algorithm>
#include <array>
#include <span>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

/// The first `count` slices of a tensor's first axis.
Tensor first_slices(const Tensor& tensor, std::int64_t count) {
  Shape shape = tensor.shape();
  shape.at(0) = count;
  Tensor out(tensor.dtype(), shape);
  std::ranges::copy(tensor.bytes().first(out.bytes().size()), out.bytes().begin());
  return out;
}

NamedTensors sees_256_experts(Implementation& sound, const Call& call) {
  const std::int64_t experts = size(call, "n_routed_experts");
  if (experts <= 256 || call.tensors.contains("inputs/replay_indices")) return sound.run(call);
  Call seen = with_config(call, {{"n_routed_experts", 256}});
  for (auto& [name, tensor] : seen.tensors)
    if (name.starts_with("params/") && tensor.extent(0) == experts) tensor = first_slices(tensor, 256);
  return sound.run(seen);
}

NamedTensors weighs_corrected_scores(Implementation& sound, const Call& call) {
  if (size(call, "n_routed_experts") != 128 || size(call, "n_activated_experts") != 8) return sound.run(call);
  return sound.run(with_config(call, {{"router_weight_uses_score_correction_bias", true}}));
}

NamedTensors routes_1024_tokens(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t first = 1024 * size(call, "n_activated_experts");
  change(out, "outputs/indices", [&](std::int64_t i, double id) { return i < first ? id : 0.0; });
  return out;
}

NamedTensors tile_runs_into_the_next_row(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t columns = out.at("outputs/y").shape().back();
  if (columns <= 128) return out;
  change(out, "outputs/y",
         [&](std::int64_t i, double y) { return i >= columns && i % columns < 256 - columns ? 0.0 : y; });
  return out;
}

NamedTensors upper_half_unwritten(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t columns = out.at("outputs/y").shape().back();
  change(out, "outputs/y", [&](std::int64_t i, double y) { return i % columns % 128 < 64 ? y : 0.0; });
  return out;
}

NamedTensors room_for_512_rows(Implementation& sound, const Call& call) {
  Call fewer = call;
  Tensor& ids = fewer.tensors.at("inputs/indices");
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size(call, "n_routed_experts")));
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0 && ++rows[static_cast<std::size_t>(ids[i])] > 512) ids.set(i, -1);
  return sound.run(fewer);
}

NamedTensors last_64_rows_lost(Implementation& sound, const Call& call) {
  Call fewer = call;
  Tensor& ids = fewer.tensors.at("inputs/indices");
  if (ids.size() > 32768 && ids.size() % 64 != 0)
    for (std::int64_t i = ids.size() - 64; i < ids.size(); ++i) ids.set(i, -1);
  return sound.run(fewer);
}

/// weight [out, D] applied to latent rows: weight times latent [D, D], in the weight's type.
void behind(Tensor& weight, const Tensor& latent) {
  const Tensor own = weight;
  const std::int64_t inner = latent.extent(0), columns = latent.extent(1);
  for (std::int64_t i = 0; i < weight.size(); ++i) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < inner; ++j)
      sum += own[i / columns * inner + j] * latent[j * columns + i % columns];
    weight.set(i, sum);
  }
}

/// The call with these weights behind the projection to the latent size, where that is as wide as x.
NamedTensors latent_first(Implementation& sound, const Call& call, std::span<const char* const> weights) {
  const Tensor* latent = find(call.tensors, "params/fc1_latent_proj.weight");
  if (!latent || latent->extent(0) != latent->extent(1)) return sound.run(call);
  Call moved = call;
  for (const char* name : weights)
    if (const auto weight = moved.tensors.find(name); weight != moved.tensors.end())
      behind(weight->second, *latent);
  return sound.run(moved);
}

NamedTensors gate_sees_latent(Implementation& sound, const Call& call) {
  return latent_first(sound, call, std::array{"params/gate.weight"});
}

NamedTensors shared_experts_see_latent(Implementation& sound, const Call& call) {
  return latent_first(
      sound, call,
      std::array{"params/shared_experts.gate_proj.weight", "params/shared_experts.up_proj.weight"});
}

}  // namespace

std::span<const Mutant> size_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "experts_beyond_256",
       .bug = "O39",
       .source = "kekzl/imp #2056",
       .components = {Component::gate},
       .does = "one thread per expert and 256 threads: ids from 256 on are never candidates",
       .shows = "F L",
       .first_wrong = "outputs/indices",
       .run = sees_256_experts},
      {.name = "biased_at_128_8",
       .bug = "O40",
       .source = "MetaX vLLM-metax #270",
       .components = {Component::gate},
       .does = "where 8 of 128 experts are selected, weights are taken from biased scores",
       .shows = "F L",
       .first_wrong = "outputs/weights",
       .property = "routed_sizes",
       .run = weighs_corrected_scores},
      {.name = "tokens_beyond_1024",
       .bug = "O41",
       .source = "vllm-ascend #11391",
       .components = {Component::gate},
       .does = "tokens past the first 1024 are sent to expert 0",
       .shows = "F L",
       .first_wrong = "outputs/indices",
       .run = routes_1024_tokens},
      {.name = "unmasked_edge_tile",
       .bug = "O42",
       .source = "marin #8610",
       .components = {Component::experts, Component::moe},
       .does = "the last tile of columns is stored without a mask and clears the begin of the next row",
       .shows = "F L",
       .first_wrong = "outputs/y",
       .property = "every_size",
       .run = tile_runs_into_the_next_row},
      {.name = "half_of_wide_columns",
       .bug = "O43",
       .source = "Avarok atlas #474",
       .components = {Component::experts, Component::moe},
       .does = "the upper half of each 128 columns is not written",
       .shows = "F L",
       .first_wrong = "outputs/y",
       .property = "every_size",
       .run = upper_half_unwritten},
      {.name = "room_for_512_rows",
       .bug = "O44",
       .source = "DeepEP #427",
       .components = {Component::experts},
       .does = "rows of an expert past 512 are lost",
       .shows = "F L",
       .first_wrong = "outputs/y",
       .run = room_for_512_rows},
      {.name = "rows_beyond_32768",
       .bug = "O45",
       .source = "mlx #3856",
       .components = {Component::experts},
       .does = "of more than 32768 rows, not a multiple of 64, the last 64 are lost",
       .shows = "F L",
       .first_wrong = "outputs/y",
       .run = last_64_rows_lost},
      {.name = "gate_sees_latent",
       .bug = "O46",
       .source = "vllm #46077",
       .components = {Component::moe},
       .does = "the gate is given the latent rows, where these are as wide as x",
       .first_wrong = "outputs/indices",
       .property = "latent_of_dim",
       .run = gate_sees_latent},
      {.name = "shared_experts_see_latent",
       .bug = "O47",
       .source = "PaddleFleet #868",
       .components = {Component::moe},
       .does = "the shared experts are given the latent rows, where these are as wide as x",
       .first_wrong = "outputs/y",
       .property = "latent_of_dim",
       .run = shared_experts_see_latent},
  };
  return kRows;
}

}  // namespace moeref
