// counter_generator.hpp: known answers of Philox, pinned digests, bulk against single draws, and the
// distributions.
#include "reference_cpu/arithmetic/counter_generator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace moeref {
namespace {

// kat_vectors of Random123 1.14 (Salmon et al.), philox4x32 with 10 rounds.
TEST(CounterGenerator, PhiloxGivesKnownAnswers) {
  struct KnownAnswer {
    PhiloxBlock counter;
    std::uint64_t key;
    PhiloxBlock expected;
  };
  const KnownAnswer answers[] = {
      {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       0xffffffffffffffffu,
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0x299f31d0a4093822u,
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const KnownAnswer& a : answers) {
    const PhiloxBlock block = philox4x32_10(a.counter, a.key);
    EXPECT_TRUE(std::equal(block.word, block.word + 4, a.expected.word));
  }
}

// Test vectors of the FNV reference code.
TEST(CounterGenerator, NameHashIsFnv1a) {
  EXPECT_EQ(name_hash(""), 0xcbf29ce484222325u);
  EXPECT_EQ(name_hash("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(name_hash("foobar"), 0x85944171f73967e8u);
}

// Every golden file that names a seed depends on these. They are the same on every compiler and machine.
TEST(CounterGenerator, KeepsPinnedValues) {
  std::vector<double> normals(100000);
  normal_fill(42, "inputs/x", 0, normals);
  std::uint64_t digest = 0xcbf29ce484222325u;
  for (const double x : normals) digest = (digest ^ std::bit_cast<std::uint64_t>(x)) * 0x100000001b3u;
  EXPECT_EQ(digest, 0x8f4696992665b146u) << std::hex << "0x" << digest;
  const CounterGenerator generator(42, "inputs/x");
  EXPECT_EQ(generator.bits(0), 0x79e297e6adb083acu) << std::hex << "0x" << generator.bits(0);
  EXPECT_EQ(generator.normal(0), 0x1.870c2a68fc2ecp-1) << std::hexfloat << generator.normal(0);
}

TEST(CounterGenerator, BulkEqualsSingleDrawsForAnyPart) {
  const CounterGenerator generator(7, "weights");
  for (const std::uint64_t first :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{511}, (std::uint64_t{1} << 40) + 3})
    for (const std::size_t count : {0, 1, 2, 3, 511, 512, 513, 1500}) {
      std::vector<double> out(count + 1, -99.0);
      generator.normals(first, std::span(out).first(count));
      for (std::size_t i = 0; i < count; ++i)
        ASSERT_EQ(std::bit_cast<std::uint64_t>(out[i]),
                  std::bit_cast<std::uint64_t>(generator.normal(first + i)));
      EXPECT_EQ(out[count], -99.0);
    }
}

TEST(CounterGenerator, SeedNameAndIndexAllMatter) {
  const std::uint64_t base = CounterGenerator(1, "a").bits(5);
  EXPECT_NE(base, CounterGenerator(2, "a").bits(5));
  EXPECT_NE(base, CounterGenerator(1 + (std::uint64_t{1} << 32), "a").bits(5));
  EXPECT_NE(base, CounterGenerator(1, "b").bits(5));
  EXPECT_NE(base, CounterGenerator(1, "a").bits(4));
  EXPECT_NE(base, CounterGenerator(1, "a").bits(5 + (std::uint64_t{1} << 33)));
}

TEST(CounterGenerator, UniformStaysInsideTheOpenInterval) {
  EXPECT_EQ(open_unit(0), 0x1p-53);
  EXPECT_EQ(open_unit(~std::uint64_t{0}), 1.0 - 0x1p-53);
  EXPECT_EQ(open_unit(std::uint64_t{1} << 63), 0.5 + 0x1p-53);
}

TEST(CounterGenerator, IntegerIsTheHighWordOfTheProduct) {
  const CounterGenerator generator(3, "ids");
  for (const std::uint64_t n :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{7}, std::uint64_t{1} << 33, ~std::uint64_t{0}})
    for (std::uint64_t i = 0; i < 200; ++i) {
      const auto expected =
          static_cast<std::uint64_t>((static_cast<unsigned __int128>(generator.bits(i)) * n) >> 64);
      ASSERT_EQ(generator.integer(i, n), expected);
    }
}

// Kolmogorov and Smirnov's statistic has a tail of 2 exp(-2 t^2) above t / sqrt(n): 3.0 is passed by chance
// once in 3e7.
TEST(CounterGenerator, NormalsAreNormal) {
  constexpr std::size_t n = 1000000;
  std::vector<double> x(n);
  normal_fill(2024, "distribution", 12345, x);
  double mean = 0, square = 0, neighbours = 0, pairs = 0;
  for (std::size_t i = 0; i < n; ++i) {
    mean += x[i] / n;
    square += x[i] * x[i] / n;
    if (i + 1 < n) neighbours += x[i] * x[i + 1] / n;
    if (i + 512 < n) pairs += x[i] * x[i + 512] / n;
  }
  const double sigma = 1.0 / std::sqrt(static_cast<double>(n));
  EXPECT_LT(std::abs(mean), 5.5 * sigma);
  EXPECT_LT(std::abs(square - 1.0), 5.5 * std::sqrt(2.0) * sigma);
  EXPECT_LT(std::abs(neighbours), 5.5 * sigma);
  EXPECT_LT(std::abs(pairs), 5.5 * sigma);
  std::sort(x.begin(), x.end());
  double distance = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double cdf = 0.5 * std::erfc(-x[i] / std::sqrt(2.0));
    distance = std::max({distance, std::abs(cdf - static_cast<double>(i) / n),
                         std::abs(cdf - static_cast<double>(i + 1) / n)});
  }
  EXPECT_LT(distance * std::sqrt(static_cast<double>(n)), 3.0);
}

}  // namespace
}  // namespace moeref
