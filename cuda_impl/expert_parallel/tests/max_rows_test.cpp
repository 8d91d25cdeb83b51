// Room for fewer rows than the worst case: what fits has the same bits, what does not is an error everywhere.
#include <gtest/gtest.h>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"

namespace moeref::cuda::test {
namespace {

constexpr int kOwn = 4;  // experts of each rank

struct RoomWay {
  int ranks;
  Exchange exchange;
  Transport transport;
  int chunks;
  const char* name;
};
void PrintTo(const RoomWay& w, std::ostream* out) { *out << w.name; }

class MaxRows : public testing::TestWithParam<RoomWay> {
 protected:
  static Spread spread(std::int64_t max_rows) {
    return {tokens_at_both_ends(GetParam().ranks),
            GetParam().exchange,
            GetParam().transport,
            GetParam().chunks,
            0,
            max_rows};
  }
};
INSTANTIATE_TEST_SUITE_P(
    Ways, MaxRows,
    testing::Values(RoomWay{3, Exchange::all_gather, Transport::automatic, 1, "all_gather"},
                    RoomWay{3, Exchange::all_to_all, Transport::automatic, 1, "all_to_all"},
                    RoomWay{3, Exchange::all_to_all, Transport::automatic, 3, "in_chunks"},
                    RoomWay{3, Exchange::all_to_all, Transport::nccl, 1, "nccl"},
                    RoomWay{8, Exchange::all_gather, Transport::automatic, 1, "all_gather_8_ranks"},
                    RoomWay{8, Exchange::all_to_all, Transport::automatic, 3, "8_ranks_in_chunks"}),
    [](const auto& info) { return info.param.name; });

/// 77 tokens, 3 slots; rank 1's experts get the most.
HostCase uneven(int ranks) {
  ExpertsConfig f{77, 48, 24, kOwn * ranks, 3};
  HostCase c = make_case(f, true, 7);
  for (std::size_t t = 0; t < 77; ++t) c.mask.push_back(t % 7 != 3);
  for (std::size_t i = 0; i < c.ids.size(); i += 2) c.ids[i] = kOwn + static_cast<int>(i) % kOwn;
  return c;
}

std::int64_t rows_of_rank(const HostCase& c, int rank) {
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < c.ids.size(); ++i)
    rows += c.mask[i / static_cast<std::size_t>(c.config.slots)] && c.ids[i] >= 0 && c.ids[i] / kOwn == rank;
  return rows;
}

TEST_P(MaxRows, ExactRoomGivesTheSameBits) {
  MOEREF_NEEDS_RANKS(GetParam().transport, GetParam().ranks);
  const HostCase c = uneven(GetParam().ranks);
  const std::int64_t needed = rows_of_rank(c, 1);
  for (int r = 0; r < GetParam().ranks; ++r)
    if (r != 1) {
      ASSERT_GT(needed, rows_of_rank(c, r));
    }
  EXPECT_EQ(run_spread(c, spread(needed)), run_spread(c, spread(0)));
}

TEST_P(MaxRows, ARowMoreIsAnErrorOnAllRanksAndTheGroupGoesOn) {
  MOEREF_NEEDS_RANKS(GetParam().transport, GetParam().ranks);
  const HostCase c = uneven(GetParam().ranks);
  HostCase lighter = c;
  lighter.ids.assign(lighter.ids.size(), -1);
  const std::int64_t needed = rows_of_rank(c, 1);
  run_ranks(GetParam().ranks, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world, group_options(GetParam().transport));
    const Stream stream;
    RankedExperts heavy(c, spread(needed - 1), *group, stream.get()),
        light(lighter, spread(needed - 1), *group, stream.get(), heavy.windows());
    expect_overflow_then_fit(*world, heavy, light, [&](const RowOverflow& e) {
      EXPECT_EQ(e.rank, 1);
      EXPECT_EQ(e.needed, needed);
      EXPECT_EQ(e.room, needed - 1);
      EXPECT_EQ(std::string(e.what()), "rank 1 of the group of experts needs room for " +
                                           std::to_string(needed) + " rows of its experts: max_rows is " +
                                           std::to_string(needed - 1));
    });
  });
}

// The flag that a caller reads after a graph: a routing that fits, one that does not, one that fits.
TEST(MaxRowsGraph, TellsAfterALaunch) {
  MOEREF_NEEDS_DEVICE();
  constexpr int kRanks = 3;
  const HostCase c = uneven(kRanks);
  const std::int64_t needed = rows_of_rank(c, 1);
  const std::string apart = run_ranks_together(kRanks, [&](const std::shared_ptr<Bootstrap>& world) {
    GroupOptions options = group_options(Transport::automatic);
    options.kernels_wait = true;
    const auto group = Group::create(world, options);
    const Stream own;
    const cudaStream_t stream = own.get();
    Spread spread{tokens_at_both_ends(kRanks)};
    spread.max_rows = needed - 1;
    RankedExperts rank(c, spread, *group, stream);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    rank.forward();
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&run, graph, 0), "cudaGraphInstantiate");
    for (const bool fits : {true, false, true}) {
      HostCase now = c;
      if (fits) now.ids.assign(now.ids.size(), -1);
      rank.own.ids.set(share_of(now, spread, world->rank()).ids);
      check(cudaStreamSynchronize(nullptr), "ids");
      world->meet();
      check(cudaGraphLaunch(run, stream), "cudaGraphLaunch");
      check(cudaStreamSynchronize(stream), "the graph");
      const auto overflow = group->overflow();
      EXPECT_EQ(overflow.has_value(), !fits);
      if (overflow) {
        EXPECT_EQ(overflow->needed, needed);
      }
      EXPECT_FALSE(group->overflow()) << "told twice";
      world->meet();
    }
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
  });
  MOEREF_SKIP(apart);
}

// DeepSeek V3 on 8 ranks of 8192 tokens: H, saved with little else, and what the passes need beside it.
TEST(MaxRowsMemory, IsThatOfTheRoom) {
  ExpertParallelConfig c{{8192, 7168, 2048, 256, 8}, 8, 8192};
  const std::int64_t even = 8192 * 8;
  const auto gigabytes = [](double bytes) { return bytes / 1e9; };
  const double h = 2.0 * static_cast<double>(even) * 2 * 2048,
               forward = 2.0 * static_cast<double>(even) * (2048 + 7168),
               backward = 2.0 * static_cast<double>(even) * (2 * 2048 + 2048 + 2 * 7168);
  EXPECT_GT(gigabytes(static_cast<double>(saved_bytes(c))), 8 * gigabytes(h)) << "the worst case";
  c.max_rows = even + even / 5;
  EXPECT_LT(gigabytes(static_cast<double>(saved_bytes(c))), 1.3 * gigabytes(h));
  EXPECT_LT(gigabytes(static_cast<double>(forward_workspace_bytes(c))), 1.3 * gigabytes(forward));
  EXPECT_LT(gigabytes(static_cast<double>(backward_workspace_bytes(c))), 1.3 * gigabytes(backward));
  c.max_rows = 0;
  c.experts.slots = 8, c.experts.experts = 32, c.ranks = 8;  // 4 own experts: a token has 4 rows at most
  EXPECT_EQ(c.most_rows_of_distinct_ids() * 2, c.most_rows());
}

}  // namespace
}  // namespace moeref::cuda::test
