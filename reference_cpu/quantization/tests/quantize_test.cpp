#include "reference_cpu/quantization/quantize.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/quantization/dequantize.hpp"
#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

Tensor drawn(const Shape& shape, std::uint64_t seed = 1) {
  Tensor out(DType::float32, shape);
  const CounterGenerator random(seed, "weights");
  for (std::int64_t i = 0; i < out.size(); ++i)
    out.set(i, random.normal(static_cast<std::uint64_t>(i)) * 0.05);
  return out;
}

Tensor row(const std::vector<double>& values) {
  return Tensor::of({1, static_cast<std::int64_t>(values.size()), 1}, std::span<const double>(values));
}

std::vector<double> restored(WeightFormat format, const Tensor& weights, std::int64_t expert) {
  const NamedTensors tensors = quantize(format, weights, "w");
  const ExpertsShape shape{weights.extent(0), weights.extent(1), weights.extent(2)};
  std::vector<double> out(static_cast<std::size_t>(shape.k * shape.n));
  dequantize(find_quantized(format, shape, tensors, "w"), expert, out);
  return out;
}

/// Half a step of the coarsest code, with the scale's own rounding, by the largest weight of a block.
TEST(Quantize, stays_near_the_weights) {
  const Tensor weights = drawn({2, 256, 6});
  for (const WeightFormat format : kQuantisedFormats)
    for (std::int64_t e = 0; e < 2; ++e) {
      const std::vector<double> got = restored(format, weights, e);
      const double relative = facts(format).element == ElementCodec::e4m3 ? 1.0 / 8.0 : 0.3;
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double w = weights[e * 256 * 6 + static_cast<std::int64_t>(i)];
        EXPECT_NEAR(got[i], w, relative * std::max(std::abs(w), 0.07)) << facts(format).name;
      }
    }
}

TEST(Quantize, numbers_that_a_format_holds_come_back) {
  for (const WeightFormat format : kQuantisedFormats) {
    const Tensor weights = drawn({2, 128, 3}, 7);
    std::vector<double> once;
    for (std::int64_t e = 0; e < 2; ++e) {
      const std::vector<double> part = restored(format, weights, e);
      once.insert(once.end(), part.begin(), part.end());
    }
    // Blocks of powers of two keep their scale; of the others the largest code may lie below m.
    if (facts(format).scale != ScaleType::e8m0) continue;
    const Tensor again = Tensor::of({2, 128, 3}, std::span<const double>(once));
    for (std::int64_t e = 0; e < 2; ++e) {
      const std::vector<double> got = restored(format, again, e);
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_EQ(got[i], again[e * 384 + static_cast<std::int64_t>(i)]) << facts(format).name;
    }
  }
}

TEST(Quantize, scale_of_mx_is_the_power_of_two_below_the_largest) {
  std::vector<double> values(32, 0.0);
  values[3] = -7.9;  // 2^2 <= 7.9 < 2^3: the scale is 2^0 with e2m1, 2^-6 with e4m3
  const NamedTensors four = quantize(WeightFormat::mxfp4, row(values), "w");
  EXPECT_EQ(four.at("w_scales")[0], 127);
  EXPECT_EQ(four.at("w_codes").shape(), (Shape{1, 1, 1, 16}));
  EXPECT_EQ(four.at("w_codes")[1], 0xf0);  // -6 saturates, in the high half of the second byte
  EXPECT_EQ(quantize(WeightFormat::mxfp8, row(values), "w").at("w_scales")[0], 121);
}

TEST(Quantize, zeros) {
  const Tensor zeros(DType::float32, {1, 128, 2});
  for (const WeightFormat format : kQuantisedFormats)
    for (const double value : restored(format, zeros, 0)) EXPECT_EQ(value, 0.0) << facts(format).name;
  EXPECT_EQ(quantize(WeightFormat::mxfp4, zeros, "w").at("w_scales")[0], 0);
  EXPECT_EQ(quantize(WeightFormat::nvfp4, zeros, "w").at("w_expert_scales")[0], 1.0);
  EXPECT_EQ(quantize(WeightFormat::int4_group32, zeros, "w").at("w_scales")[0], 0x1p-7);
}

TEST(Quantize, the_first_of_two_codes_is_in_the_low_half) {
  std::vector<double> values(32, 0.0);
  values[0] = 7.5;
  values[1] = -7.5;
  EXPECT_EQ(quantize(WeightFormat::int4_group32, row(values), "w").at("w_codes")[0], 0x0f);  // 7 + 8, -8 + 8
}

/// Extents that 128 does not divide: the last blocks have the scale of what they hold.
TEST(Quantize, fp8_blocks_may_be_cut) {
  Tensor weights(DType::float64, {1, 130, 129});
  for (std::int64_t i = 0; i < weights.size(); ++i) weights.set(i, 1.0);
  for (std::int64_t n = 0; n < 129; ++n) weights.set(129 * 129 + n, 448.0);  // k = 129
  weights.set(129 * 129 + 128, 896.0);
  const NamedTensors tensors = quantize(WeightFormat::fp8_e4m3_block128, weights, "w");
  EXPECT_EQ(tensors.at("w_codes").shape(), (Shape{1, 129, 130}));
  EXPECT_EQ(tensors.at("w_scales").shape(), (Shape{1, 2, 2}));
  EXPECT_EQ(tensors.at("w_scales").doubles(), (std::vector<double>{1.0f / 448.0f, 1.0, 1.0f / 448.0f, 2.0}));
}

TEST(Quantize, refuses) {
  const auto message = [](WeightFormat format, const Tensor& weights) -> std::string {
    try {
      quantize(format, weights, "params/down_projs");
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message(WeightFormat::mxfp4, Tensor(DType::float32, {1, 48, 2})),
            "'params/down_projs' of shape [1, 48, 2] has no mxfp4: want its middle extent a multiple of 32");
  Tensor infinite(DType::float64, {1, 32, 2});
  infinite.set(5, 1e300);
  EXPECT_EQ(message(WeightFormat::mxfp8, infinite),
            "'params/down_projs' cannot be quantised: it is not finite in float32 at [0, 2, 1]");
}

}  // namespace
}  // namespace moeref
