#include "reference_cpu/quantization/dequantize.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

struct Given {
  ExpertsShape shape;
  WeightFormat format;
  NamedTensors tensors;

  Given(WeightFormat format, ExpertsShape shape) : shape(shape), format(format) {
    for (const StoredWeights& stored : stored_weights(format, shape))
      tensors["w" + std::string(stored.suffix)] = Tensor(stored.dtype, stored.shape);
  }
  std::vector<double> numbers(std::int64_t expert) const {
    std::vector<double> out(static_cast<std::size_t>(shape.k * shape.n));
    dequantize(find_quantized(format, shape, tensors, "w"), expert, out);
    return out;
  }
  Bounded loaded(DType compute) const {
    Bounded out;
    load_into(out, find_quantized(format, shape, tensors, "w"), 0, compute);
    return out;
  }
  std::string message() const {
    try {
      find_quantized(format, shape, tensors, "w");
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }
};

/// As transformers 5.24 gives them for these bytes: blocks 0x21, 0x43, ... with scales 2^1 and 2^-1.
TEST(Dequantize, mxfp4_in_the_order_of_gpt_oss) {
  Given g(WeightFormat::mxfp4, {2, 64, 2});
  Tensor &codes = g.tensors.at("w_codes"), &scales = g.tensors.at("w_scales");
  ASSERT_EQ(codes.shape(), (Shape{2, 2, 2, 16}));
  ASSERT_EQ(scales.shape(), (Shape{2, 2, 2}));
  // Expert 1, output 1, block 1: bytes 0x21 and 0xf8 begin it.
  const std::int64_t block = (1 * 2 + 1) * 2 + 1;
  codes.set(block * 16, 0x21);
  codes.set(block * 16 + 1, 0xf8);
  for (std::int64_t i = 0; i < 8; ++i) scales.set(i, 127);
  scales.set(block, 129);
  const std::vector<double> w = g.numbers(1);
  const auto at = [&](std::size_t k, std::size_t n) { return w[k * 2 + n]; };
  EXPECT_EQ(at(32, 1), 0.5 * 4.0);
  EXPECT_EQ(at(33, 1), 1.0 * 4.0);
  EXPECT_TRUE(at(34, 1) == 0.0 && std::signbit(at(34, 1)));
  EXPECT_EQ(at(35, 1), -6.0 * 4.0);
  EXPECT_EQ(at(32, 0), 0.0);
  for (const double other : g.numbers(0)) EXPECT_EQ(other, 0.0);
}

TEST(Dequantize, fp8_scales_stand_by_block_of_outputs_and_contraction) {
  Given g(WeightFormat::fp8_e4m3_block128, {1, 130, 200});
  Tensor &codes = g.tensors.at("w_codes"), &scales = g.tensors.at("w_scales");
  for (std::int64_t i = 0; i < codes.size(); ++i) codes.set(i, encode(ElementCodec::e4m3, 1.0));
  for (std::int64_t i = 0; i < 4; ++i) scales.set(i, static_cast<double>(i + 1));
  const std::vector<double> w = g.numbers(0);
  for (std::size_t k = 0; k < 130; ++k)
    for (std::size_t n = 0; n < 200; ++n)
      EXPECT_EQ(w[k * 200 + n], 1.0 + static_cast<double>(2 * (n / 128) + k / 128)) << k << " " << n;
}

TEST(Dequantize, nvfp4_has_three_factors) {
  Given g(WeightFormat::nvfp4, {1, 16, 1});
  g.tensors.at("w_codes").set(0, 0x0d);  // -3, 0
  g.tensors.at("w_scales").set(0, encode(ElementCodec::e4m3, 1.125));
  g.tensors.at("w_expert_scales").set(0, 1.0f + 0x1p-23f);
  EXPECT_EQ(g.numbers(0)[0], -3.0 * 1.125 * (1.0 + 0x1p-23));
}

TEST(Dequantize, what_the_type_holds_is_exact_and_the_rest_is_rounded) {
  Given mx(WeightFormat::mxfp4, {1, 32, 2});
  for (std::int64_t i = 0; i < 32; ++i) mx.tensors.at("w_codes").set(i, static_cast<double>(i * 7 % 256));
  for (std::int64_t i = 0; i < 2; ++i) mx.tensors.at("w_scales").set(i, 120);
  EXPECT_TRUE(mx.loaded(DType::bfloat16).exact());
  EXPECT_TRUE(mx.loaded(DType::float32).exact());

  Given fp8(WeightFormat::fp8_e4m3_block128, {1, 2, 1});
  fp8.tensors.at("w_codes").set(0, encode(ElementCodec::e4m3, 1.0));
  fp8.tensors.at("w_codes").set(1, encode(ElementCodec::e4m3, 1.125));
  fp8.tensors.at("w_scales").set(0, 1.0f + 0x1p-23f);
  EXPECT_TRUE(fp8.loaded(DType::float64).exact());
  const Bounded fine = fp8.loaded(DType::float32), coarse = fp8.loaded(DType::bfloat16);
  EXPECT_EQ(fine.error[0], 0.0);  // float32 holds the scale
  EXPECT_GE(fine.error[1], std::abs(fine.value[1] - static_cast<double>(static_cast<float>(fine.value[1]))));
  EXPECT_LT(fine.error[1], 0x1.1p-24 * 1.2);
  EXPECT_EQ(coarse.value[1], fine.value[1]);
  EXPECT_GE(coarse.error[1], std::abs(coarse.value[1] - round_to(DType::bfloat16, coarse.value[1])));
  EXPECT_LT(coarse.error[1], 0x1.1p-8 * 1.2);
}

TEST(Dequantize, refuses_what_is_not_a_number) {
  Given g(WeightFormat::mxfp8, {1, 32, 2});
  g.tensors.at("w_codes").set(33, 0xff);
  EXPECT_EQ(g.message(), "dataset 'w_codes' holds the code 255 at [0, 1, 1], which is not a number");
  g.tensors.at("w_codes").set(33, 0);
  g.tensors.at("w_scales").set(1, 255);
  EXPECT_EQ(g.message(), "dataset 'w_scales' holds the code 255 at [0, 1, 0], which is not a number");
  Given int4(WeightFormat::int4_group32, {1, 32, 2});
  int4.tensors.at("w_scales").set(1, INFINITY);
  EXPECT_EQ(int4.message(), "dataset 'w_scales' is not finite at [0, 1, 0]");
  int4.tensors.erase("w_scales");
  EXPECT_EQ(int4.message(), "missing dataset 'w_scales'");
}

}  // namespace
}  // namespace moeref
