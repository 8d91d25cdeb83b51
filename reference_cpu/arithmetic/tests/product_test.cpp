// product.hpp: the same bits as three plain loops, whatever the width, threads and shape, and bounds that
// hold.
#include "reference_cpu/arithmetic/product.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

class Random {
 public:
  double normal() {
    double sum = 0.0;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(bits_() >> 11) * 0x1p-53;
    return sum - 6.0;
  }
  Bounded matrix(std::int64_t rows, std::int64_t cols, DType dtype, bool errors) {
    Bounded m(rows, cols, dtype);
    if (!errors) m.error.clear();
    for (double& v : m.value) v = round_to(dtype, normal());
    for (double& e : m.error) e = std::abs(normal()) * 1e-3;
    return m;
  }

 private:
  std::mt19937_64 bits_{11};
};

double element(const Bounded& m, const std::vector<double>& from, bool transposed, std::int64_t r,
               std::int64_t c) {
  return from[static_cast<std::size_t>(transposed ? c * m.cols + r : r * m.cols + c)];
}

Bounded absolute(Bounded m) {
  for (double& v : m.value) v = std::abs(v);
  return m;
}
/// No element is a number of TF32: the last bit of each is set.
Bounded odd(Bounded m) {
  for (double& v : m.value)
    v = std::bit_cast<float>(std::bit_cast<std::uint32_t>(static_cast<float>(v)) | 1u);
  return m;
}
Bounded as_float32(Bounded m) {
  m.dtype = DType::float32;
  return m;
}

struct Naive {
  std::vector<double> value, bound;  ///< the bound before anything is stored
};

Naive naive(const Bounded& a, bool ta, const Bounded& b, bool tb, Precision p) {
  const std::int64_t rows = ta ? a.cols : a.rows, depth = ta ? a.rows : a.cols, cols = tb ? b.rows : b.cols;
  const double g = gamma(depth, p.unit);
  Naive out;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      double sum = 0.0, bound = 0.0;
      for (std::int64_t k = 0; k < depth; ++k) {
        const double x = element(a, a.value, ta, i, k), y = element(b, b.value, tb, k, j);
        const double ex = a.exact() ? 0.0 : element(a, a.error, ta, i, k),
                     ey = b.exact() ? 0.0 : element(b, b.error, tb, k, j);
        sum += x * y;
        bound += g * std::abs(x * y) + (1.0 + g) * (ex * std::abs(y) + std::abs(x) * ey + ex * ey);
      }
      out.value.push_back(sum);
      out.bound.push_back(bound);
    }
  return out;
}

class Product : public testing::TestWithParam<VectorWidth> {
 protected:
  void SetUp() override {
    if (!has(GetParam())) GTEST_SKIP() << "this machine lacks the width";
    before_ = used_width();
    use(GetParam());
  }
  void TearDown() override {
    if (has(GetParam())) use(before_);
    set_thread_count(0);
  }
  VectorWidth before_ = VectorWidth::sse2;
};

TEST_P(Product, HasTheBitsOfPlainLoops) {
  Random random;
  for (const auto& [rows, depth, cols] : {std::array<std::int64_t, 3>{1, 1, 1},
                                          {3, 5, 7},
                                          {4, 8, 16},
                                          {17, 33, 9},
                                          {5, 64, 31},
                                          {1, 100, 40},
                                          {40, 3, 1},
                                          {6, 1, 50}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true})
        for (const int threads : {1, 3}) {
          set_thread_count(threads);
          const Bounded a = random.matrix(ta ? depth : rows, ta ? rows : depth, DType::float32, true);
          const Bounded b =
              random.matrix(tb ? cols : depth, tb ? depth : cols, DType::float32, rows % 2 == 1);
          const Bounded c = multiply(a, ta, b, tb, Sums{DType::float32}, DType::float32);
          const Naive want = naive(a, ta, b, tb, precision(DType::float32));
          ASSERT_EQ(c.rows, rows);
          ASSERT_EQ(c.cols, cols);
          ASSERT_EQ(std::memcmp(c.value.data(), want.value.data(), want.value.size() * sizeof(double)), 0)
              << rows << " " << depth << " " << cols << " " << ta << tb;
          for (std::size_t i = 0; i < want.bound.size(); ++i)
            ASSERT_NEAR(c.error[i], want.bound[i], 1e-12 * want.bound[i] + 1e-35);
          std::vector<double> value(want.value.size());
          std::vector<float> bound(want.value.size());
          multiply_into(a, ta, b, tb, Sums{DType::float32}, DType::float32, value.data(), bound.data());
          ASSERT_EQ(value, c.value);
          for (std::size_t i = 0; i < bound.size(); ++i) ASSERT_EQ(bound[i], round_up(c.error[i]));
        }
}

TEST_P(Product, EmptyMatrices) {
  Random random;
  const Bounded none = random.matrix(0, 4, DType::float32, false),
                b = random.matrix(4, 3, DType::float32, false);
  EXPECT_EQ(multiply(none, false, b, false, Sums{DType::float32}, DType::float32).count(), 0u);
  // No terms: exact zeros.
  const Bounded zero = multiply(none, true, random.matrix(0, 3, DType::float32, false), false,
                                Sums{DType::float32}, DType::bfloat16);
  EXPECT_EQ(zero.value, std::vector<double>(12, 0.0));
  EXPECT_EQ(zero.error, std::vector<double>(12, 0.0));
}

INSTANTIATE_TEST_SUITE_P(Widths, Product,
                         testing::Values(VectorWidth::sse2, VectorWidth::avx2, VectorWidth::avx512),
                         [](const auto& info) {
                           return std::string(info.param == VectorWidth::sse2   ? "sse2"
                                              : info.param == VectorWidth::avx2 ? "avx2"
                                                                                : "avx512");
                         });

TEST(ProductBounds, HoldForFloatSumsInEveryOrder) {
  Random random;
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t depth = 1 + trial % 60;
    const Bounded a = random.matrix(1, depth, DType::bfloat16, false),
                  b = random.matrix(depth, 1, DType::bfloat16, false);
    const Bounded c = multiply(a, false, b, false, Sums{DType::float32}, DType::bfloat16);
    for (const bool reversed : {false, true}) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < depth; ++k) {
        const auto i = static_cast<std::size_t>(reversed ? depth - 1 - k : k);
        sum += static_cast<float>(a.value[i]) * static_cast<float>(b.value[i]);
      }
      ASSERT_LE(std::abs(round_to(DType::bfloat16, sum) - c.value[0]), c.error[0]);
    }
    ASSERT_LE(c.error[0],
              std::abs(c.value[0]) * 0x1.01p-8 + 1e-3);  // and it is no more than the type's own rounding
  }
}

// Each rank's part in the parameter's type, and the sum of the parts too, in both orders; nothing more for
// one rank, or where the parts are as fine as the sum over all tokens.
void expect_rounded_parts_within(DType computed, DType held) {
  Random random;
  int beyond = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const std::int64_t rows = 5 + trial % 30;
    const std::vector<std::int64_t> ranks{0, rows / 3, rows / 3, rows / 2, rows};
    const Bounded dy = random.matrix(rows, 1, computed, false), x = random.matrix(rows, 1, computed, false);
    const auto gradient = [&](DType in, DType to, RankRows of) {
      return weight_gradient(dy, x, Sums{accumulator(in)}, in, to, of);
    };
    const Bounded alone = gradient(computed, held, {}), whole = gradient(computed, held, ranks);
    ASSERT_EQ(whole.value, alone.value);
    ASSERT_EQ(gradient(computed, held, std::vector<std::int64_t>{0, rows}).error, alone.error);
    ASSERT_EQ(gradient(DType::float32, DType::float32, ranks).error,
              gradient(DType::float32, DType::float32, {}).error);
    for (const bool reversed : {false, true}) {
      double sum = 0.0;
      for (std::size_t i = 0; i < 4; ++i) {
        const std::size_t r = reversed ? 3 - i : i;
        const DType fine = accumulator(computed);
        const Bounded part = multiply(rows_of(dy, ranks[r], ranks[r + 1]), true,
                                      rows_of(x, ranks[r], ranks[r + 1]), false, Sums{fine}, fine);
        sum = round_to(held, sum + round_to(held, part.value[0]));
      }
      ASSERT_LE(std::abs(sum - whole.value[0]), whole.error[0]);
      beyond += std::abs(sum - alone.value[0]) > alone.error[0];
    }
  }
  EXPECT_GT(beyond, 30);  // one rank's bound would accuse them
}

TEST(ProductBounds, HoldForParametersWhoseRanksRoundTheirParts) {
  expect_rounded_parts_within(DType::bfloat16, DType::bfloat16);
}
TEST(ProductBounds, HoldForPartsOfRanksInACoarserTypeThanTheirComputation) {
  expect_rounded_parts_within(DType::float64, DType::float32);
  expect_rounded_parts_within(DType::float32, DType::bfloat16);
}

TEST(ProductBounds, HoldForPerturbedOperands) {
  Random random;
  for (int trial = 0; trial < 200; ++trial) {
    const Bounded a = random.matrix(2, 7, DType::float64, true),
                  b = random.matrix(7, 2, DType::float64, true);
    Bounded moved_a = a, moved_b = b;
    for (std::size_t i = 0; i < a.count(); ++i)
      moved_a.value[i] += (random.normal() > 0 ? 1 : -1) * a.error[i];
    for (std::size_t i = 0; i < b.count(); ++i)
      moved_b.value[i] += (random.normal() > 0 ? 1 : -1) * b.error[i];
    const Bounded c = multiply(a, false, b, false, Sums{DType::float64}, DType::float64);
    const Bounded moved = multiply(moved_a, false, moved_b, false, Sums{DType::float64}, DType::float64);
    for (std::size_t i = 0; i < c.count(); ++i) ASSERT_LE(std::abs(moved.value[i] - c.value[i]), c.error[i]);
  }
}

TEST(ProductBounds, Tf32OperandsAddTheirRoundings) {
  Random random;
  const Sums plain = sums_of(DType::float32, Float32Products::float32),
             tf32 = sums_of(DType::float32, Float32Products::tf32);
  EXPECT_FALSE(sums_of(DType::bfloat16, Float32Products::tf32).tf32_operands);
  EXPECT_FALSE(sums_of(DType::float64, Float32Products::tf32).tf32_operands);
  const double g = gamma(7, precision(DType::float32).unit), v = 0x1p-11 + 0x1p-53;
  const double share = (1.0 + g) * (1.0 + v) * (1.0 + v) - 1.0;
  for (int trial = 0; trial < 100; ++trial) {
    const Bounded a = odd(random.matrix(2, 7, DType::float32, false)),
                  b = odd(random.matrix(7, 2, DType::float32, false));
    const Bounded c = multiply(a, false, b, false, tf32, DType::float32);
    ASSERT_EQ(c.value, multiply(a, false, b, false, plain, DType::float32).value);
    // Both operands away from zero, each by almost half a unit of TF32's last place.
    Bounded far_a = a, far_b = b;
    for (Bounded* m : {&far_a, &far_b})
      for (double& element : m->value) element *= 1.0 + 0x1p-11;
    const Bounded magnitudes = multiply(absolute(a), false, absolute(b), false, plain, DType::float32);
    const Bounded far = multiply(far_a, false, far_b, false, plain, DType::float32);
    for (std::size_t i = 0; i < c.count(); ++i) {
      EXPECT_NEAR(c.error[i], share * magnitudes.value[i], 1e-12 * magnitudes.value[i]);
      EXPECT_LE(std::abs(far.value[i] - c.value[i]), c.error[i]);
    }
    // Numbers of bfloat16 are numbers of TF32.
    const Bounded narrow_a = as_float32(random.matrix(2, 7, DType::bfloat16, false)),
                  narrow_b = as_float32(random.matrix(7, 2, DType::bfloat16, false));
    EXPECT_EQ(multiply(narrow_a, false, narrow_b, false, tf32, DType::float32).error,
              multiply(narrow_a, false, narrow_b, false, plain, DType::float32).error);
  }
}

TEST(ProductBounds, AreInfiniteWherePartialSumsMayOverflow) {
  Bounded a(1, 2, DType::float32), b(2, 1, DType::float32);
  a.error.clear();
  b.error.clear();
  a.value = {3e38, 3e38};
  b.value = {1.5, -1.5};
  EXPECT_TRUE(std::isinf(multiply(a, false, b, false, Sums{DType::float32}, DType::float32).error[0]));
  EXPECT_TRUE(std::isfinite(multiply(a, false, b, false, Sums{DType::float64}, DType::float64).error[0]));
}

TEST(Linear, AddsTheBiasAndStoresTwice) {
  Bounded x(1, 2, DType::bfloat16), w(2, 2, DType::bfloat16), bias(1, 2, DType::bfloat16);
  x.value = {1, 2};
  w.value = {3, 4, 5, 6};  // [out, in]
  bias.value = {100, 0};
  const Bounded y = linear(x, w, &bias, Sums{}, DType::bfloat16),
                plain = linear(x, w, nullptr, Sums{}, DType::bfloat16);
  EXPECT_EQ(plain.value, (std::vector<double>{11, 17}));
  EXPECT_EQ(y.value, (std::vector<double>{111, 17}));
  EXPECT_GT(y.error[0], plain.error[0] + 0x1p-8 * 110.0);
  EXPECT_EQ(y.error[1], plain.error[1]);
}

}  // namespace
}  // namespace moeref
