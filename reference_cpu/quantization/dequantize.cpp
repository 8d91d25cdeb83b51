#include "reference_cpu/quantization/dequantize.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "moeref/error.hpp"
#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

/// A number for each code of one byte.
using OfCodes = std::array<double, 256>;

OfCodes numbers_of(ElementCodec codec) {
  OfCodes out{};
  for (int code = 0; code < 256; ++code)
    out[static_cast<std::size_t>(code)] = decode(codec, static_cast<std::uint8_t>(code));
  return out;
}

/// A scale as a number, whatever it is stored in.
double scale_at(const WeightFormatFacts& f, const Tensor& scales, std::int64_t i) {
  const double stored = scales[i];
  if (f.scale == ScaleType::e8m0) return decode(ElementCodec::e8m0, static_cast<std::uint8_t>(stored));
  if (f.scale == ScaleType::e4m3) return decode(ElementCodec::e4m3, static_cast<std::uint8_t>(stored));
  return stored;
}

/// The code of element k of row `row`, counted over experts and outputs.
std::uint8_t code_at(const WeightFormatFacts& f, std::span<const std::uint8_t> codes, std::int64_t row,
                     std::int64_t k, std::int64_t width) {
  if (!is_packed(f.element)) return codes[static_cast<std::size_t>(row * width + k)];
  const std::uint8_t both = codes[static_cast<std::size_t>((row * width + k) / 2)];
  return k % 2 == 0 ? both & 0xf : both >> 4;
}

void check_numbers(const std::string& name, const Tensor& tensor, const OfCodes& numbers) {
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    if (std::isnan(numbers[static_cast<std::size_t>(tensor[i])]))
      throw InputError("dataset '" + name + "' holds the code " +
                       std::to_string(static_cast<int>(tensor[i])) + " at " + coordinates(i, tensor.shape()) +
                       ", which is not a number");
}

void check_finite(const std::string& name, const Tensor& tensor) {
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    if (!std::isfinite(tensor[i]))
      throw InputError("dataset '" + name + "' is not finite at " + coordinates(i, tensor.shape()));
}

/// of_code(code) * scale * expert scale for [K, N] of one expert.
void scaled_by_blocks(const QuantizedWeights& w, std::int64_t expert, const OfCodes& of_code,
                      std::span<double> out) {
  const WeightFormatFacts& f = facts(w.format);
  const std::span<const std::uint8_t> codes = w.codes->as<std::uint8_t>();
  const std::int64_t blocks_n = w.scales->extent(1), blocks_k = w.scales->extent(2);
  const double expert_scale = w.expert_scales ? (*w.expert_scales)[expert] : 1.0;
  for (std::int64_t n = 0; n < w.shape.n; ++n)
    for (std::int64_t block = 0; block < blocks_k; ++block) {
      const std::int64_t at = (expert * blocks_n + n / f.block_n) * blocks_k + block;
      const double scale = scale_at(f, *w.scales, at) * expert_scale;
      const std::int64_t end = std::min((block + 1) * f.block_k, w.shape.k);
      for (std::int64_t k = block * f.block_k; k < end; ++k)
        out[static_cast<std::size_t>(k * w.shape.n + n)] =
            of_code[code_at(f, codes, expert * w.shape.n + n, k, w.shape.k)] * scale;
    }
}

}  // namespace

QuantizedWeights find_quantized(WeightFormat format, const ExpertsShape& shape, const NamedTensors& tensors,
                                const std::string& name) {
  const WeightFormatFacts& f = facts(format);
  QuantizedWeights out{format, shape, &require(tensors, name + "_codes"), &require(tensors, name + "_scales"),
                       f.expert_scale ? &require(tensors, name + "_expert_scales") : nullptr};
  check_numbers(name + "_codes", *out.codes, numbers_of(f.element));
  if (f.scale == ScaleType::e8m0)
    check_numbers(name + "_scales", *out.scales, numbers_of(ElementCodec::e8m0));
  if (f.scale == ScaleType::e4m3)
    check_numbers(name + "_scales", *out.scales, numbers_of(ElementCodec::e4m3));
  if (is_floating(out.scales->dtype())) check_finite(name + "_scales", *out.scales);
  if (out.expert_scales) check_finite(name + "_expert_scales", *out.expert_scales);
  return out;
}

void dequantize(const QuantizedWeights& w, std::int64_t expert, std::span<double> out) {
  scaled_by_blocks(w, expert, numbers_of(facts(w.format).element), out);
}

void code_powers(const QuantizedWeights& w, std::int64_t expert, std::span<double> out) {
  OfCodes powers = numbers_of(ElementCodec::e4m3);
  for (double& number : powers) number = e4m3_power(number);
  scaled_by_blocks(w, expert, powers, out);
  for (double& power : out) power = std::abs(power);
}

void load_into(Bounded& out, const QuantizedWeights& w, std::int64_t expert, DType compute) {
  out.rows = w.shape.k;
  out.cols = w.shape.n;
  out.dtype = compute;
  out.value.resize(out.count());
  out.error.clear();
  dequantize(w, expert, out.value);
  // In float32 a second rounding may miss a number that float32 holds; a coarser type's rounding mends that.
  const bool twice = compute == DType::float32 && facts(w.format).float32_roundings > 1;
  const auto held = [&](double value) { return !twice && round_to(compute, value) == value; };
  if (std::ranges::all_of(out.value, held)) return;
  const Precision fine = precision(compute == DType::float64 ? DType::float64 : DType::float32);
  out.error.resize(out.count());
  for (std::size_t i = 0; i < out.count(); ++i) {
    if (held(out.value[i])) continue;
    Real weight = known(out.value[i], fine);
    for (int r = 0; r < facts(w.format).float32_roundings; ++r) weight = weight.rounded();
    out.error[i] = store(weight, precision(compute)).error;
  }
}

}  // namespace moeref
