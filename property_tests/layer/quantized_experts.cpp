// Experts with quantised weights are experts with the numbers that the codes stand for (SPEC 11). The codes
// are read here by the formats' definitions, not by the reference's codecs.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

double e4m3(int code) {
  const int exponent = (code >> 3) & 15, fraction = code & 7;
  const double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return code > 127 ? -size : size;
}

double e2m1(int code) {
  constexpr std::array sizes{0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
  const double size = sizes[static_cast<std::size_t>(code & 7)];
  return code > 7 ? -size : size;
}

double element(ElementCodec codec, int code) {
  if (codec == ElementCodec::e4m3) return e4m3(code);
  return codec == ElementCodec::e2m1 ? e2m1(code) : code - 8;
}

double scale_of(const WeightFormatFacts& f, double stored) {
  if (f.scale == ScaleType::e8m0) return std::ldexp(1.0, static_cast<int>(stored) - 127);
  return f.scale == ScaleType::e4m3 ? e4m3(static_cast<int>(stored)) : stored;
}

/// The parameter [E, K, N] that stands in codes and scales.
Tensor numbers_of(const Call& call, const std::string& name, const ExpertsShape& s, const MoEConfig& c) {
  const WeightFormatFacts& f = facts(c.weight_format);
  const Tensor &codes = call.tensors.at(name + "_codes"), &scales = call.tensors.at(name + "_scales");
  const Tensor* expert_scales = find(call.tensors, name + "_expert_scales");
  const std::int64_t rows = scales.extent(1), columns = scales.extent(2);
  Tensor out(c.dtype, {s.experts, s.k, s.n});
  for (std::int64_t i = 0; i < out.size(); ++i) {
    const std::int64_t e = i / (s.k * s.n), k = i / s.n % s.k, n = i % s.n, at = (e * s.n + n) * s.k + k;
    const int byte = static_cast<int>(codes[is_packed(f.element) ? at / 2 : at]);
    const int code = !is_packed(f.element) ? byte : k % 2 == 0 ? byte % 16 : byte / 16;
    const double scale = scale_of(f, scales[(e * rows + n / f.block_n) * columns + k / f.block_k]);
    out.set(i, element(f.element, code) * scale * (expert_scales ? (*expert_scales)[e] : 1.0));
  }
  return out;
}

/// Scales become powers of two that differ from block to block, so that every type holds code times scale;
/// `raised` makes them all larger by 2^raised.
void simplify_scales(Call& call, const WeightFormatFacts& f, int raised) {
  for (auto& [name, tensor] : call.tensors) {
    const bool of_experts = name.ends_with("_expert_scales");
    if (!name.ends_with("_scales")) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const int exponent = static_cast<int>(i * 3 % 5) - 4 + raised;
      tensor.set(i, of_experts                   ? std::ldexp(1.0, exponent + 2)
                    : f.scale == ScaleType::e8m0 ? 127 + exponent
                    : f.scale == ScaleType::e4m3 ? (exponent + 7) * 8
                                                 : std::ldexp(1.0, exponent));
    }
  }
}

/// Codes of e4m3 become subnormal ones, which beside others would be lost in every bound.
void make_subnormal(Call& call) {
  for (auto& [name, tensor] : call.tensors)
    for (std::int64_t i = 0; name.ends_with("_codes") && i < tensor.size(); ++i)
      tensor.set(i, static_cast<int>(tensor[i]) & 0x87);
}

void quantised_weights(Implementation& impl, const Descriptor& d) {
  Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const WeightFormatFacts& format = facts(c.weight_format);
  const bool subnormal = format.element == ElementCodec::e4m3 && d.seed / 6 % 2 == 1;
  if (subnormal) make_subnormal(call);
  simplify_scales(call, format, subnormal ? 6 : 0);
  Call numbers = call;
  numbers.config.erase("weight_format");
  std::erase_if(numbers.tensors, [](const auto& entry) {
    return entry.first.ends_with("_codes") || entry.first.ends_with("_scales");
  });
  for (const auto& [name, shape] :
       {std::pair{"gate_and_up_projs", c.up_shape()}, {"down_projs", c.down_shape()}}) {
    const std::string param = expert_tensor(d.component, "params", name);
    numbers.tensors[param] = numbers_of(call, param, shape, c);
  }
  const Answer a(impl, call), b(impl, numbers);
  for (const auto& [name, tensor] : a.results())
    if (!name.starts_with("stages/"))
      expect_same(a, b, name, "codes and scales against the numbers that they stand for");
}

/// Two blocks or more along each axis that has some.
void arrange_quantised(Descriptor& d) {
  if (d.config.weight_format == WeightFormat::none)
    d.config.weight_format = kQuantisedFormats[d.seed % kQuantisedFormats.size()];
  const WeightFormatFacts& f = facts(d.config.weight_format);
  const std::int64_t least = f.cut_blocks ? f.block_k + 2 : 2 * f.block_k;
  d.latent = 0;
  d.D = std::clamp(d.D, least, 2 * f.block_k);
  d.I = std::clamp(d.I, least, 2 * f.block_k);
  d.E = std::min<std::int64_t>(d.E, 4);
  d.k = std::min(d.k, d.E);
  d.T = std::clamp<std::int64_t>(d.T, 2, 8);
  d.rows = 0;
  d.poison = NonFinite::none;
  d.values = Values::rough;
  if (d.mask != Mask::absent) d.mask = Mask::first;
  if (d.ids != Ids::duplicates) d.ids = Ids::distinct;
  if (d.dtype == DType::float16) d.dtype = DType::bfloat16;
}

const Property kQuantizedExpertsProperties[] = {
    {"C4",
     "quantised_weights",
     {Component::experts},
     PropertyClass::bounded,
     "experts with quantised weights are experts with the numbers that codes and scales stand for, in every "
     "format",
     {"nibbles swapped", "scale of the next block", "transposed scales", "e8m0 off by one"},
     arrange_quantised,
     quantised_weights,
     Passes::either},
};

}  // namespace

std::span<const Property> quantized_experts_properties() { return kQuantizedExpertsProperties; }

}  // namespace moeref
