// The counting sort against the definition.
#include "moeref/cuda/permutation.hpp"

#include <algorithm>
#include <random>

#include "cuda_impl/tests/device.hpp"

namespace moeref::cuda::test {
namespace {

std::vector<int> ints(const int* device, std::size_t n) {
  std::vector<int> out(n);
  check(cudaMemcpy(out.data(), device, n * 4, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return out;
}

TEST(SortByExpert, FollowsTheDefinition) {
  MOEREF_NEEDS_DEVICE();
  std::mt19937 rng(5);
  for (const PermutationShape s : {PermutationShape{0, 2, 4, 320},
                                   {1, 1, 1, 320},
                                   {1, 8, 128, 128},
                                   {3, 7, 2, 64},  // several slots an expert
                                   {8, 8, 1024, 160},
                                   {64, 1, 300, 320},
                                   {65, 1, 300, 320},
                                   {255, 1, 3, 320},
                                   {257, 8, 128, 320},
                                   {5000, 3, 1024, 320},
                                   {5000, 2, 7, 160},
                                   {20000, 8, 256, 64},
                                   {0, 2, 4, 320, {2, 0}},
                                   {600, 2, 7, 64, {2, 300}},
                                   {404, 3, 5, 160, {4, 101}},      // the last chunk has fewer tokens
                                   {404, 3, 5, 160, {4, 101, 50}},  // and here it has most of them
                                   {600, 2, 7, 64, {3, 300, 1}},
                                   {6, 2, 3, 64, {4, 1}}}) {  // and here others have none
    const TokenChunks chunks = s.chunks;
    SCOPED_TRACE(testing::Message() << s.tokens << " x " << s.slots << " over " << s.experts << " in "
                                    << chunks.count);
    const std::size_t total = s.tokens * s.slots;
    std::vector<int> ids(total);
    std::vector<float> weights(total);
    std::vector<std::uint8_t> mask(s.tokens);
    for (auto& m : mask) m = rng() % 8 != 0;
    for (std::size_t i = 0; i < total; ++i) ids[i] = int(rng() % (s.experts + 2)) - 1, weights[i] = float(i);
    DeviceArray<int> device_ids(ids);
    DeviceArray<float> device_weights(weights);
    DeviceArray<std::uint8_t> device_mask(mask);
    DeviceArray<char> memory(permutation_bytes(s)), work(sort_workspace_bytes(s));
    const Permutation p = carve_permutation(s, memory.data());
    sort_by_expert(s, device_ids.data(), device_weights.data(), device_mask.data(), p, work.data(), nullptr);
    check(cudaDeviceSynchronize(), "sort_by_expert");

    const auto in_chunk = [&](std::size_t slot, int chunk) {
      const std::int64_t at =
          static_cast<std::int64_t>(slot) / s.slots % std::max<std::int64_t>(1, chunks.period);
      const RowRange range = chunks.range(chunk);
      return at >= range.first && at < range.first + range.count;
    };
    std::vector<int> offsets{0}, row_slot, slot_row(total, -1);
    for (int e = 0; e < s.experts; ++e)
      for (int chunk = 0; chunk < chunks.count; ++chunk) {
        for (std::size_t i = 0; i < total; ++i)
          if (ids[i] == e && mask[i / s.slots] && in_chunk(i, chunk))
            slot_row[i] = int(row_slot.size()), row_slot.push_back(int(i));
        offsets.push_back(int(row_slot.size()));
      }
    for (int chunk = 0; chunk < chunks.count; ++chunk) {
      const std::vector<int> device_tiles =
          ints(p.expert_tile_begin + chunk * (s.experts + 1), s.experts + 1);
      std::vector<int> tile_begin{0}, tile_expert;
      for (int e = 0; e < s.experts; ++e) {
        const int group = e * chunks.count + chunk, rows = offsets[group + 1] - offsets[group],
                  tiles = device_tiles[e + 1] - device_tiles[e];
        EXPECT_GE(tiles * s.tile_rows, rows) << e;
        EXPECT_LT((tiles - 1) * s.tile_rows, std::max(rows, 1)) << e;
        tile_begin.push_back(tile_begin.back() + tiles);
        tile_expert.insert(tile_expert.end(), tiles, e);
      }
      EXPECT_EQ(device_tiles, tile_begin);
      EXPECT_EQ(ints(p.tile_expert + chunk * p.most_tiles, tile_expert.size()), tile_expert);
    }
    EXPECT_EQ(ints(p.offsets, offsets.size()), offsets);
    EXPECT_EQ(ints(p.row_slot, row_slot.size()), row_slot);
    EXPECT_EQ(ints(p.slot_row, total), slot_row);
    const std::vector<int> tokens = ints(p.row_token, row_slot.size());
    for (std::size_t r = 0; r < row_slot.size(); ++r) ASSERT_EQ(tokens[r], row_slot[r] / s.slots);
  }
}

// With exact room the result is the same; with a row less no slot has a row, and the number needed is told.
TEST(SortByExpert, TellsWhatDoesNotFit) {
  MOEREF_NEEDS_DEVICE();
  std::mt19937 rng(6);
  PermutationShape s{3000, 3, 40, 160};
  std::vector<int> ids(9000);
  for (int& id : ids) id = static_cast<int>(rng() % 120) - 40;  // two of three have no expert
  const auto needed = std::count_if(ids.begin(), ids.end(), [](int id) { return id >= 0 && id < 40; });
  const DeviceArray<int> device_ids(ids);
  const DeviceArray<float> device_weights(std::vector<float>(9000, 1.0f));
  std::vector<std::vector<int>> results;
  for (const std::int64_t room : {std::int64_t{9000}, std::int64_t{needed}, std::int64_t{needed - 1}}) {
    s.max_rows = room;
    const DeviceArray<char> memory(permutation_bytes(s)), work(sort_workspace_bytes(s));
    const Permutation p = carve_permutation(s, memory.data());
    sort_by_expert(s, device_ids.data(), device_weights.data(), nullptr, p, work.data(), nullptr);
    check(cudaDeviceSynchronize(), "sort_by_expert");
    EXPECT_EQ(ints(p.rows_needed, 1)[0], needed);
    std::vector<int> all = ints(p.slot_row, 9000);
    for (const std::vector<int>& more : {ints(p.offsets, 41), ints(p.expert_tile_begin, 41)})
      all.insert(all.end(), more.begin(), more.end());
    results.push_back(all);
  }
  EXPECT_EQ(results[1], results[0]);
  std::vector<int> none(9000, -1);
  none.insert(none.end(), 82, 0);
  EXPECT_EQ(results[2], none);
  s.max_rows = 9001;
  EXPECT_THROW(sort_by_expert(s, nullptr, nullptr, nullptr, {}, nullptr, nullptr), ArgumentError);
}

/// As many slots and groups as there may be: the table of counts has 2^33 entries.
PermutationShape largest() {
  PermutationShape s{(std::int64_t{1} << 30) - 2048, 2, 1024, 64};
  s.max_rows = 16;
  return s;
}

TEST(SortByExpert, SizesAreThoseOf64BitArithmetic) {
  const PermutationShape s = largest();
  const double slots = 2.0 * static_cast<double>(s.tokens), kept = 4 * slots, counts = 4 * slots / 256 * 1024;
  EXPECT_NEAR(static_cast<double>(sort_workspace_bytes(s)), counts, 1e4);
  EXPECT_NEAR(static_cast<double>(permutation_bytes(s)), kept, 1e5);
  PermutationShape all = s;
  all.max_rows = 2 * s.tokens;
  EXPECT_NEAR(static_cast<double>(permutation_bytes(all)), 4 * kept + 4 * slots / 16, 1e5);
  alignas(256) static char base[256];
  const Permutation p = carve_permutation(all, base);
  const auto behind = [&](const int* array) {
    return static_cast<double>(reinterpret_cast<std::uintptr_t>(array) -
                               reinterpret_cast<std::uintptr_t>(base));
  };
  EXPECT_NEAR(behind(p.tile_expert), 4 * kept, 1e5);
  EXPECT_EQ(behind(p.rows_needed) + 256, static_cast<double>(permutation_bytes(all)));
  PermutationShape more = s;
  more.tokens += 1024;
  EXPECT_THROW(sort_by_expert(more, nullptr, nullptr, nullptr, {}, nullptr, nullptr), ArgumentError);
}

TEST(SortByExpert, CountsBeyond31Bits) {
  MOEREF_NEEDS_DEVICE();
  const PermutationShape s = largest();
  const std::size_t slots = 2 * static_cast<std::size_t>(s.tokens);
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  if (const std::size_t wanted = slots * 4 + permutation_bytes(s) + sort_workspace_bytes(s) + (1u << 30);
      free < wanted)
    GTEST_SKIP() << "wants " << (wanted >> 30) << " GiB of device memory: nothing was tested";
  const DeviceArray<int> ids(slots);  // -1: no expert
  const auto set = [&](std::size_t slot, int id) {
    check(cudaMemcpy(ids.data() + slot, &id, sizeof id, cudaMemcpyHostToDevice), "cudaMemcpy");
  };
  set(0, 5), set(slots - 3, 5), set(slots - 2, 1023), set(slots - 1, 5);
  const DeviceArray<char> memory(permutation_bytes(s)), work(sort_workspace_bytes(s));
  const Permutation p = carve_permutation(s, memory.data());
  sort_by_expert(s, ids.data(), reinterpret_cast<const float*>(ids.data()), nullptr, p, work.data(), nullptr);
  check(cudaDeviceSynchronize(), "sort_by_expert");
  const int last = static_cast<int>(slots) - 1;
  EXPECT_EQ(ints(p.rows_needed, 1)[0], 4);
  EXPECT_EQ(ints(p.row_slot, 4), (std::vector<int>{0, last - 2, last, last - 1}));
  EXPECT_EQ(ints(p.row_token, 4), (std::vector<int>{0, (last - 2) / 2, last / 2, last / 2}));
  EXPECT_EQ(ints(p.slot_row + last - 3, 4), (std::vector<int>{-1, 1, 3, 2}));
  const std::vector<int> offsets = ints(p.offsets, 1025);
  EXPECT_EQ(offsets[5], 0);
  EXPECT_EQ(offsets[6], 3);
  EXPECT_EQ(offsets[1023], 3);
  EXPECT_EQ(offsets[1024], 4);
}

}  // namespace
}  // namespace moeref::cuda::test
