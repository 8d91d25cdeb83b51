// Ports that read quantised weights wrongly: codes, scales, or which scale belongs to which code.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

/// The format of the call's weights; none for calls without experts.
WeightFormat format_of(const Call& call) {
  return has_experts(call) ? parse_moe_config(call.config).weight_format : WeightFormat::none;
}
bool is_quantised(const Call& call) { return format_of(call) != WeightFormat::none; }
bool is_format(const Call& call, WeightFormat format) { return format_of(call) == format; }
bool has_scale(const Call& call, ScaleType scale) {
  return is_quantised(call) && facts(format_of(call)).scale == scale;
}
bool has_codec(const Call& call, ElementCodec codec) {
  return is_quantised(call) && facts(format_of(call)).element == codec;
}

/// The call with element i of each tensor whose name ends so made f(tensor, i).
Call reread(Call call, std::string_view suffix, const std::function<double(const Tensor&, std::int64_t)>& f) {
  for (auto& [name, tensor] : call.tensors) {
    if (!name.starts_with("params/") || !name.ends_with(suffix)) continue;
    if (suffix == "_scales" && name.ends_with("_expert_scales")) continue;
    const Tensor before = tensor;
    for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, f(before, i));
  }
  return call;
}

NamedTensors nibbles_swapped(Implementation& sound, const Call& call) {
  if (!is_quantised(call) || !is_packed(facts(format_of(call)).element)) return sound.run(call);
  return sound.run(reread(call, "_codes", [](const Tensor& codes, std::int64_t i) {
    const int both = static_cast<int>(codes[i]);
    return both % 16 * 16 + both / 16;
  }));
}

/// A block takes the scale of its neighbour along the contraction; the last one keeps its own.
NamedTensors scale_of_next_block(Implementation& sound, const Call& call) {
  if (!is_quantised(call)) return sound.run(call);
  return sound.run(reread(call, "_scales", [](const Tensor& scales, std::int64_t i) {
    const std::int64_t blocks = scales.extent(2);
    return scales[i % blocks == blocks - 1 ? i : i + 1];
  }));
}

/// The scales of an expert read as [K blocks, N blocks].
NamedTensors scales_transposed(Implementation& sound, const Call& call) {
  if (!is_format(call, WeightFormat::fp8_e4m3_block128)) return sound.run(call);
  return sound.run(reread(call, "_scales", [](const Tensor& scales, std::int64_t i) {
    const std::int64_t rows = scales.extent(1), columns = scales.extent(2), first = i / (rows * columns);
    const std::int64_t n = i / columns % rows, k = i % columns;
    return scales[first * rows * columns + k * rows + n];
  }));
}

NamedTensors e8m0_off_by_one(Implementation& sound, const Call& call) {
  if (!has_scale(call, ScaleType::e8m0)) return sound.run(call);
  return sound.run(reread(call, "_scales", [](const Tensor& scales, std::int64_t i) {
    return std::max(scales[i] - 1.0, 0.0);  // with a bias of 128
  }));
}

/// K / 128 is rounded down, and the cut block takes the scale before its own.
NamedTensors cut_block_takes_scale_before(Implementation& sound, const Call& call) {
  if (!is_format(call, WeightFormat::fp8_e4m3_block128)) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  Call other = call;
  for (auto& [name, tensor] : other.tensors) {
    if (!name.ends_with("projs_scales")) continue;
    const std::int64_t blocks = tensor.extent(2);
    const std::int64_t k = name.ends_with("down_projs_scales") ? c.moe_inter_dim : c.expert_dim();
    for (std::int64_t i = blocks - 1; blocks > 1 && k % 128 != 0 && i < tensor.size(); i += blocks)
      tensor.set(i, tensor[i - 1]);
  }
  return sound.run(other);
}

NamedTensors expert_scale_left_out(Implementation& sound, const Call& call) {
  return sound.run(reread(call, "_expert_scales", [](const Tensor&, std::int64_t) { return 1.0; }));
}

/// As compressed-tensors stores it: there the factor divides.
NamedTensors expert_scale_divides(Implementation& sound, const Call& call) {
  return sound.run(
      reread(call, "_expert_scales", [](const Tensor& scales, std::int64_t i) { return 1.0 / scales[i]; }));
}

NamedTensors int4_in_twos_complement(Implementation& sound, const Call& call) {
  if (!has_codec(call, ElementCodec::int4)) return sound.run(call);
  return sound.run(reread(call, "_codes", [](const Tensor& codes, std::int64_t i) {
    return static_cast<double>(static_cast<int>(codes[i]) ^ 0x88);
  }));
}

/// e4m3 with the bias 8 of the variant without a negative zero: every number is half as large.
NamedTensors e4m3_has_bias_8(Implementation& sound, const Call& call) {
  if (!has_codec(call, ElementCodec::e4m3)) return sound.run(call);
  return sound.run(reread(call, "_scales", [&](const Tensor& scales, std::int64_t i) {
    return has_scale(call, ScaleType::e8m0) ? std::max(scales[i] - 1.0, 0.0) : scales[i] / 2.0;
  }));
}

/// Subnormal e4m3 numbers flushed to zero.
NamedTensors e4m3_subnormals_lost(Implementation& sound, const Call& call) {
  if (!has_codec(call, ElementCodec::e4m3)) return sound.run(call);
  return sound.run(reread(call, "_codes", [](const Tensor& codes, std::int64_t i) {
    const int code = static_cast<int>(codes[i]);
    return code % 128 < 8 ? 0.0 : codes[i];
  }));
}

/// 1/2, the one subnormal of e2m1, read as 0.
NamedTensors e2m1_half_lost(Implementation& sound, const Call& call) {
  if (!has_codec(call, ElementCodec::e2m1)) return sound.run(call);
  return sound.run(reread(call, "_codes", [](const Tensor& codes, std::int64_t i) {
    const auto read = [](int code) { return code % 8 == 1 ? code - 1 : code; };
    const int both = static_cast<int>(codes[i]);
    return static_cast<double>(read(both / 16) * 16 + read(both % 16));
  }));
}

constexpr std::string_view kSeen = "stages/up_projection outputs/y";

}  // namespace

std::span<const Mutant> quantization_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "nibbles_swapped",
       .components = kExperts,
       .does = "the first of two codes is taken from the high half of their byte",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = nibbles_swapped},
      {.name = "scale_of_next_block",
       .components = kExperts,
       .does = "a block's scale is that of the next block along the contraction",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = scale_of_next_block},
      {.name = "scales_transposed",
       .components = kExperts,
       .does = "scales of 128 x 128 blocks are read with their two axes exchanged",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = scales_transposed},
      {.name = "e8m0_off_by_one",
       .components = kExperts,
       .does = "a scale in e8m0 has the bias 128",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = e8m0_off_by_one},
      {.name = "cut_block_takes_scale_before",
       .components = kExperts,
       .does = "the last block, cut short, has the scale of the block before it",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = cut_block_takes_scale_before},
      {.name = "expert_scale_left_out",
       .components = kExperts,
       .does = "the scale of a whole expert is taken for 1",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = expert_scale_left_out},
      {.name = "expert_scale_divides",
       .components = kExperts,
       .does = "the scale of a whole expert divides where it should multiply",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = expert_scale_divides},
      {.name = "int4_in_twos_complement",
       .components = kExperts,
       .does = "4-bit integers are read in two's complement, not with an offset of 8",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = int4_in_twos_complement},
      {.name = "e4m3_has_bias_8",
       .components = kExperts,
       .does = "e4m3 has the bias 8 of its variant without a negative zero",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = e4m3_has_bias_8},
      {.name = "e4m3_subnormals_lost",
       .components = kExperts,
       .does = "subnormal numbers of e4m3 are read as 0",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = e4m3_subnormals_lost},
      {.name = "e2m1_half_lost",
       .components = kExperts,
       .does = "1/2, the subnormal number of e2m1, is read as 0",
       .first_wrong = kSeen,
       .property = "quantised_weights",
       .run = e2m1_half_lost},
  };
  return kRows;
}

}  // namespace moeref
