#include "reference_cpu/quantization/quantize.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/call/enumerators.hpp"
#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

constexpr float kEpsilonOfFloat = std::numeric_limits<float>::epsilon(), kEpsilonOfBfloat16 = 0x1p-7f;

/// A block's scale: as it is stored, and how its weights are brought to codes.
struct BlockScale {
  double stored = 0.0;  ///< a number, or the code of one
  float divisor = 1.0f, factor = 1.0f;
};

/// `m`: the largest absolute value of the block; `expert`: the expert's scale.
BlockScale scale_in_float32(const WeightFormatFacts& f, float m, float) {
  float scale = m / static_cast<float>(largest(f.element));
  if (scale == 0.0f) scale = kEpsilonOfFloat;
  return {scale, scale};
}
BlockScale scale_in_bfloat16(const WeightFormatFacts&, float m, float) {
  auto scale = static_cast<float>(round_to(DType::bfloat16, m / 7.5f));
  if (scale == 0.0f) scale = kEpsilonOfBfloat16;
  return {scale, scale};
}
BlockScale scale_in_e8m0(const WeightFormatFacts& f, float m, float) {
  // Of 0 the exponent is the lowest that there is.
  const int exponent = m == 0.0f ? -127 : std::ilogb(m) - largest_exponent(f.element);
  const double scale = std::ldexp(1.0, std::clamp(exponent, -127, 127));
  return {static_cast<double>(encode(ElementCodec::e8m0, scale)), static_cast<float>(scale)};
}
BlockScale scale_in_e4m3(const WeightFormatFacts& f, float m, float expert) {
  const float wanted = m / static_cast<float>(largest(f.element)) / expert;
  const std::uint8_t code = encode(ElementCodec::e4m3, std::clamp(wanted, 0x1p-6f, 448.0f));
  const auto scale = static_cast<float>(decode(ElementCodec::e4m3, code));
  return {static_cast<double>(code), 1.0f, 1.0f / expert / scale};
}

struct ScaleRow {
  ScaleType kind;
  BlockScale (*of)(const WeightFormatFacts& format, float m, float expert);
};
constexpr auto kScaleRows = std::to_array<ScaleRow>({
    {ScaleType::float32, scale_in_float32},
    {ScaleType::bfloat16, scale_in_bfloat16},
    {ScaleType::e8m0, scale_in_e8m0},
    {ScaleType::e4m3, scale_in_e4m3},
});
static_assert(has_row_per_enumerator<kScaleRows>());

/// The weights of an expert by output, [N, K], in float32.
std::vector<float> by_output(const Tensor& weights, const ExpertsShape& s, std::int64_t expert,
                             const std::string& name) {
  std::vector<double> own(static_cast<std::size_t>(s.k * s.n));
  weights.read(expert * s.k * s.n, own);
  std::vector<float> out(own.size());
  for (std::int64_t k = 0; k < s.k; ++k)
    for (std::int64_t n = 0; n < s.n; ++n) {
      const auto weight = static_cast<float>(own[static_cast<std::size_t>(k * s.n + n)]);
      if (!std::isfinite(weight))
        throw InputError("'" + name + "' cannot be quantised: it is not finite in float32 at " +
                         to_string({expert, k, n}));
      out[static_cast<std::size_t>(n * s.k + k)] = weight;
    }
  return out;
}

/// The rows and columns [n, n_end) x [k, k_end) that share a scale.
struct Block {
  std::int64_t n, n_end, k, k_end;
};
template <typename Visit>
void for_each(const Block& b, Visit&& visit) {
  for (std::int64_t n = b.n; n < b.n_end; ++n)
    for (std::int64_t k = b.k; k < b.k_end; ++k) visit(n, k);
}

void write_code(ElementCodec codec, std::span<std::uint8_t> codes, std::int64_t element, std::uint8_t code) {
  if (!is_packed(codec)) {
    codes[static_cast<std::size_t>(element)] = code;
    return;
  }
  std::uint8_t& both = codes[static_cast<std::size_t>(element / 2)];
  both = static_cast<std::uint8_t>(element % 2 == 0 ? (both & 0xf0) | code : (both & 0x0f) | (code << 4));
}

}  // namespace

NamedTensors quantize(WeightFormat format, const Tensor& weights, const std::string& name) {
  const WeightFormatFacts& f = facts(format);
  const ExpertsShape s{weights.extent(0), weights.extent(1), weights.extent(2)};
  if (!f.cut_blocks && (s.k % f.block_k != 0 || s.n % f.block_n != 0))
    throw InputError("'" + name + "' of shape " + to_string(weights.shape()) + " has no " +
                     std::string(f.name) + ": want its middle extent a multiple of " +
                     std::to_string(f.block_k));
  NamedTensors out;
  for (const StoredWeights& stored : stored_weights(format, s))
    out[name + std::string(stored.suffix)] = Tensor(stored.dtype, stored.shape);
  Tensor &scales = out.at(name + "_scales"), *expert_scales = nullptr;
  if (f.expert_scale) expert_scales = &out.at(name + "_expert_scales");
  const std::span<std::uint8_t> codes = out.at(name + "_codes").as<std::uint8_t>();
  const ScaleRow& rule = kScaleRows[static_cast<std::size_t>(f.scale)];

  std::int64_t block = 0;
  for (std::int64_t e = 0; e < s.experts; ++e) {
    const std::vector<float> own = by_output(weights, s, e, name);
    const auto at = [&](std::int64_t n, std::int64_t k) {
      return own[static_cast<std::size_t>(n * s.k + k)];
    };
    const auto largest_in = [&](const Block& b) {
      float m = 0.0f;
      for_each(b, [&](std::int64_t n, std::int64_t k) { m = std::max(m, std::abs(at(n, k))); });
      return m;
    };
    float expert_scale = 1.0f;
    if (expert_scales) {
      const float m = largest_in({0, s.n, 0, s.k});
      const float scale = m / (448.0f * static_cast<float>(largest(f.element)));
      if (std::isfinite(1.0f / scale)) expert_scale = scale;
      expert_scales->set(e, expert_scale);
    }
    for (std::int64_t n = 0; n < s.n; n += f.block_n)
      for (std::int64_t k = 0; k < s.k; k += f.block_k) {
        const Block b{n, std::min(n + f.block_n, s.n), k, std::min(k + f.block_k, s.k)};
        const BlockScale scale = rule.of(f, largest_in(b), expert_scale);
        scales.set(block++, scale.stored);
        for_each(b, [&](std::int64_t row, std::int64_t col) {
          const float scaled = at(row, col) / scale.divisor * scale.factor;
          write_code(f.element, codes, (e * s.n + row) * s.k + col, encode(f.element, scaled));
        });
      }
  }
  return out;
}

}  // namespace moeref
