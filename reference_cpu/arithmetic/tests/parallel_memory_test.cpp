#include "reference_cpu/arithmetic/parallel_memory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

std::vector<std::byte> counted(std::size_t size) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>((i * 131 + i / 251) & 0xff);
  return out;
}

TEST(ParallelMemoryTest, CopiesEveryByte) {
  // Below, at and beyond the pieces that threads take.
  for (const std::size_t size : {0u, 1u, 1000u, (4u << 20), (9u << 20) + 17u}) {
    const std::vector<std::byte> from = counted(size);
    std::vector<std::byte> to(size + 1, std::byte{7});
    copy_in_parallel(from, to.data());
    EXPECT_TRUE(std::equal(from.begin(), from.end(), to.begin())) << size;
    EXPECT_EQ(to.back(), std::byte{7});
  }
}

TEST(ParallelMemoryTest, TheFirstDifferenceIsFound) {
  const std::vector<std::byte> a = counted((13u << 20) + 5u);
  EXPECT_EQ(first_difference(a, a.data()), std::nullopt);
  EXPECT_EQ(first_difference({}, nullptr), std::nullopt);
  std::vector<std::byte> b = a;
  // Later ones first: the earliest counts, in any order of the threads.
  for (const std::size_t at :
       {a.size() - 1, std::size_t{9} << 20, (std::size_t{4} << 20) - 1, std::size_t{3}}) {
    b[at] ^= std::byte{1};
    EXPECT_EQ(first_difference(a, b.data()), at);
  }
}

TEST(ParallelPiecesTest, EveryElementIsInOnePiece) {
  for (const std::int64_t count : {0, 1, 63, 64, 65, 1000}) {
    std::vector<int> seen(static_cast<std::size_t>(count));
    parallel_pieces(count, 64, [&](std::int64_t first, std::int64_t size) {
      EXPECT_LE(size, 64);
      for (std::int64_t i = first; i < first + size; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    EXPECT_TRUE(std::ranges::all_of(seen, [](int times) { return times == 1; })) << count;
  }
}

}  // namespace
}  // namespace moeref
