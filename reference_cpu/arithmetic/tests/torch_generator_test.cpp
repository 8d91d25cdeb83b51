// torch_generator.hpp against values of PyTorch 2.11 on a CPU with AVX2: torch.Generator().manual_seed(1234),
// then on empty tensors normal_(0.25, 0.02) of 5, uniform_() of 5, normal_ and uniform_ of 16, normal_ of 37.
#include "reference_cpu/arithmetic/torch_generator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

namespace moeref {
namespace {

struct Drawn {
  DType dtype;
  double ulps;  ///< of the result; 0 where PyTorch's bits are reproduced
  std::vector<double> normal5, uniform5;
  std::vector<double> normal16;  ///< elements 0, 1, 8, 15
  std::vector<double> normal37;  ///< elements 0, 20, 21, 29, 36: from 21 on drawn again
};

const Drawn kDrawn[] = {
    {DType::float32,
     0,
     {0x1.00f1dcp-2, 0x1.083dcp-2, 0x1.d6915ap-3, 0x1.047056p-2, 0x1.e6ebdap-3},
     {0x1.8cb934p-1, 0x1.a4403cp-1, 0x1.1dfaacp-2, 0x1.5d093cp-1, 0x1.227bbp-2},
     {0x1.fc384cp-3, 0x1.e32062p-3, 0x1.c438aep-3, 0x1.987af8p-3},
     {0x1.fe14a2p-3, 0x1.d5874ep-3, 0x1.f5d63ep-3, 0x1.ba90ccp-3, 0x1.e2aa18p-3}},
    {DType::float64,
     2,
     {0x1.00f1db4204015p-2, 0x1.083dbfee2c156p-2, 0x1.d6915940f8398p-3, 0x1.047055227ded1p-2,
      0x1.e6ebd9e004b5ep-3},
     {0x1.97268cb488078p-3, 0x1.dfaaf42ba1278p-3, 0x1.13dd851503ef8p-2, 0x1.d1f1a1dbb3576p-1,
      0x1.9e9ba034de878p-1},
     {0x1.f93fa74db70a1p-3, 0x1.f0e471b5209bp-3, 0x1.f6cf2023708c2p-3, 0x1.0631e6adfe17bp-2},
     {0x1.e8a2095bae834p-3, 0x1.09fe07ef7847p-2, 0x1.17a5b9918f325p-2, 0x1.cdde9da532019p-3,
      0x1.2c1e1ac2c5e8dp-2}},
    {DType::bfloat16,
     0,
     {0x1p-2, 0x1.08p-2, 0x1.d6p-3, 0x1.04p-2, 0x1.e6p-3},
     {0x1.34p-1, 0x1.ep-4, 0x1.56p-1, 0x1.3cp-1, 0x1.d8p-1},
     {0x1.eep-3, 0x1.02p-2, 0x1.16p-2, 0x1.f4p-3},
     {0x1.18p-2, 0x1.1ap-2, 0x1.0ep-2, 0x1.08p-2, 0x1.f6p-3}},
    {DType::float16,
     0,
     {0x1.01p-2, 0x1.084p-2, 0x1.d68p-3, 0x1.048p-2, 0x1.e7p-3},
     {0x1.268p-1, 0x1.ep-7, 0x1.aacp-1, 0x1.278p-1, 0x1.bbp-1},
     {0x1.ce8p-3, 0x1.ab8p-3, 0x1.adcp-3, 0x1.d38p-3},
     {0x1.df8p-3, 0x1.d38p-3, 0x1.a68p-3, 0x1.fbp-3, 0x1.0fcp-2}},
};

void expect_elements(const Tensor& tensor, const std::vector<std::int64_t>& at,
                     const std::vector<double>& expected, double ulps) {
  for (std::size_t i = 0; i < at.size(); ++i)
    EXPECT_LE(std::abs(tensor[at[i]] - expected[i]),
              ulps * 2.0 * unit_roundoff(tensor.dtype()) * std::abs(expected[i]))
        << name(tensor.dtype()) << " element " << at[i] << " of " << to_string(tensor.shape());
}

TEST(TorchGenerator, DrawsTensorsAsPyTorchDoes) {
  for (const Drawn& drawn : kDrawn) {
    TorchGenerator generator(1234);
    const auto normal = [&](const Shape& shape) { return generator.normal(drawn.dtype, shape, 0.25, 0.02); };
    const std::vector<std::int64_t> five{0, 1, 2, 3, 4};
    expect_elements(normal({5}), five, drawn.normal5, drawn.ulps);
    expect_elements(generator.uniform(drawn.dtype, {5}), five, drawn.uniform5, 0.0);
    expect_elements(normal({4, 4}), {0, 1, 8, 15}, drawn.normal16, drawn.ulps);
    generator.uniform(drawn.dtype, {16});
    expect_elements(normal({37}), {0, 20, 21, 29, 36}, drawn.normal37, drawn.ulps);
  }
}

// Five normals take three pairs: the sixth waits across the tensors in between, which do not use it.
TEST(TorchGenerator, KeepsTheSecondNormalOfAPairAcrossCalls) {
  TorchGenerator pairs(1234), calls(1234);
  std::vector<double> expected;
  for (int i = 0; i < 6; ++i) expected.push_back(pairs.normal_double());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(calls.normal_double(), expected[static_cast<std::size_t>(i)]);
  calls.uniform(DType::float32, {3});
  calls.normal(DType::float32, {16}, 0.0, 1.0);
  EXPECT_EQ(calls.normal(DType::float64, {1}, 0.0, 1.0)[0], expected[5]);
}

TEST(TorchGenerator, TakesTheLow32BitsOfTheSeed) {
  TorchGenerator a(5489), b(5489 + (std::uint64_t{7} << 32));
  EXPECT_EQ(a.draw(), b.draw());
  std::uint32_t last = a.draw();
  for (int i = 2; i < 10000; ++i) last = a.draw();
  EXPECT_EQ(last, 4123659995u);  // the 10000th draw of mt19937 seeded with 5489 (C++ standard, [rand.predef])
}

TEST(TorchGenerator, RedrawsOnlyTheLastSixteen) {
  TorchGenerator whole(9), rest(9);
  const Tensor a = whole.normal(DType::float32, {32}, 0.0, 1.0),
               b = rest.normal(DType::float32, {35}, 0.0, 1.0);
  for (std::int64_t i = 0; i < 19; ++i) EXPECT_EQ(a[i], b[i]);
  EXPECT_NE(a[19], b[19]);
}

TEST(TorchGenerator, EmptyTensorsDrawNothing) {
  TorchGenerator a(1), b(1);
  a.normal(DType::bfloat16, {0, 4}, 0.0, 1.0);
  a.uniform(DType::float64, {0});
  EXPECT_EQ(a.draw(), b.draw());
}

TEST(TorchGenerator, RefusesIntegerTensors) {
  TorchGenerator generator(1);
  EXPECT_THROW(generator.uniform(DType::int64, {2}), std::logic_error);
  EXPECT_THROW(generator.normal(DType::boolean, {2}, 0.0, 1.0), std::logic_error);
}

}  // namespace
}  // namespace moeref
