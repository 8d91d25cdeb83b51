// Windows with room for the rows of tokens that come: what fits has the same bits as with room for all, what
// does not is an error everywhere, and the memory is that of the room.
#include <gtest/gtest.h>

#include "cuda_impl/expert_parallel/layout.hpp"
#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"

namespace moeref::cuda::test {
namespace {

constexpr int kOwn = 4;  // experts of each rank

struct PackedWay {
  Transport transport;
  int ranks;
  const char* name;
};
void PrintTo(const PackedWay& w, std::ostream* out) { *out << w.name; }

class PackedRows : public testing::TestWithParam<PackedWay> {
 protected:
  static Spread spread(std::int64_t max_rows, std::int64_t max_token_rows) {
    return {tokens_at_both_ends(GetParam().ranks),
            Exchange::all_to_all,
            GetParam().transport,
            1,
            0,
            max_rows,
            max_token_rows};
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, PackedRows,
                         testing::Values(PackedWay{Transport::automatic, 3, "automatic"},
                                         PackedWay{Transport::nccl, 3, "nccl"},
                                         PackedWay{Transport::automatic, 8, "automatic_8_ranks"}),
                         [](const auto& info) { return info.param.name; });

/// 77 tokens, half of the slots on two experts of rank 1.
HostCase half_on_rank_1(int slots, int ranks) {
  HostCase c = make_case({77, 48, 24, kOwn * ranks, slots}, true, 11);
  for (std::size_t t = 0; t < 77; ++t) c.mask.push_back(t % 7 != 3);
  for (std::size_t i = 0; i < c.ids.size(); i += 2) c.ids[i] = kOwn + static_cast<int>(i / 2) % 2;
  return c;
}

struct Needed {
  std::int64_t expert_rows = 0, token_rows = 0;  // the most that any rank needs
  int rank_of_expert_rows = 0, rank_of_token_rows = 0;
};
Needed needed(const HostCase& c, const Spread& spread) {
  const auto ranks = static_cast<std::size_t>(spread.ranks());
  std::vector<std::int64_t> slots(ranks), arrive(ranks), come_back(ranks);
  for (int from = 0; from < spread.ranks(); ++from)
    for (std::int64_t t = spread.first(from); t < spread.first(from) + spread.tokens[from]; ++t)
      for (std::size_t to = 0; to < ranks; ++to) {
        int work = 0;
        for (int j = 0; j < c.config.slots; ++j) {
          const int id = c.ids[static_cast<std::size_t>(t * c.config.slots + j)];
          work += c.mask[static_cast<std::size_t>(t)] && id >= 0 && id / kOwn == static_cast<int>(to);
        }
        slots[to] += work, arrive[to] += work > 0, come_back[static_cast<std::size_t>(from)] += work > 0;
      }
  Needed out;
  for (int r = 0; r < spread.ranks(); ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (slots[i] > out.expert_rows) out.expert_rows = slots[i], out.rank_of_expert_rows = r;
    const std::int64_t tokens = std::max(arrive[i], come_back[i]);
    if (tokens > out.token_rows) out.token_rows = tokens, out.rank_of_token_rows = r;
  }
  return out;
}

bool packs(const HostCase& c, const Spread& s) {
  return ExpertParallelConfig{c.config, s.ranks(), s.most(), s.exchange, 1, s.max_rows, s.max_token_rows}
      .packed();
}

TEST_P(PackedRows, ExactRoomGivesTheSameBits) {
  MOEREF_NEEDS_RANKS(GetParam().transport, GetParam().ranks);
  for (const int slots : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << slots << " slots");
    const HostCase c = half_on_rank_1(slots, GetParam().ranks);
    const NamedBits want = run_spread(c, spread(0, 0));
    const Needed exact = needed(c, spread(0, 0));
    for (const Spread& room : {spread(0, exact.token_rows), spread(exact.expert_rows, exact.token_rows),
                               spread(slots == 1 ? exact.expert_rows : 0, 0)}) {
      if (room.max_rows + room.max_token_rows == 0) continue;
      ASSERT_TRUE(packs(c, room));
      EXPECT_EQ(run_spread(c, room), want);
    }
  }
}

TEST_P(PackedRows, ARowMoreIsAnErrorOnAllRanksAndTheGroupGoesOn) {
  MOEREF_NEEDS_RANKS(GetParam().transport, GetParam().ranks);
  const HostCase c = half_on_rank_1(2, GetParam().ranks);
  const Needed exact = needed(c, spread(0, 0));
  HostCase lighter = c;
  for (std::size_t i = 0; i < lighter.ids.size(); ++i)
    lighter.ids[i] = i % 6 == 0 ? static_cast<int>(i) % c.config.experts : -1;
  const NamedBits want = run_spread(lighter, spread(0, 0));
  for (const RoomFor what : {RoomFor::token_rows, RoomFor::expert_rows}) {
    const bool tokens = what == RoomFor::token_rows;
    SCOPED_TRACE(tokens ? "rows of tokens" : "rows of experts");
    const Spread room =
        tokens ? spread(0, exact.token_rows - 1) : spread(exact.expert_rows - 1, exact.token_rows);
    ASSERT_TRUE(packs(c, room));
    std::vector<NamedBits> got(static_cast<std::size_t>(GetParam().ranks));
    run_ranks(GetParam().ranks, [&](const std::shared_ptr<Bootstrap>& world) {
      const auto group = Group::create(world, group_options(GetParam().transport));
      const Stream stream;
      RankedExperts heavy(c, room, *group, stream.get()),
          light(lighter, room, *group, stream.get(), heavy.windows());
      expect_overflow_then_fit(*world, heavy, light, [&](const RowOverflow& e) {
        EXPECT_EQ(e.rank, tokens ? exact.rank_of_token_rows : exact.rank_of_expert_rows);
        EXPECT_EQ(e.needed, tokens ? exact.token_rows : exact.expert_rows);
        EXPECT_EQ(e.room, e.needed - 1);
        EXPECT_NE(std::string(e.what()).find(tokens ? "max_token_rows is" : "max_rows is"), std::string::npos)
            << e.what();
      });
      got[static_cast<std::size_t>(world->rank())] = light.own.bits();
    });
    EXPECT_EQ(put_together(got), want);
  }
}

// DeepSeek V3: five matrices of rows in kept and transient windows, the latter also staged.
TEST(PackedRowsMemory, IsThatOfTheRoom) {
  const auto bytes = [](const ExpertParallelConfig& c) {
    return static_cast<double>(KeptRegions(c).bytes() + 2 * TransientRegions(c).bytes());
  };
  const double row = 5.0 * 2 * 7168;
  ExpertParallelConfig c{{8192, 7168, 2048, 256, 8}, 8, 8192};
  const double even = 8192 * 5.29;  // rows that arrive: a token goes to 5.29 of 8 ranks (SCALE.md)
  EXPECT_GT(bytes(c), 1.5 * even * row) << "room for all";
  c.max_token_rows = static_cast<std::int64_t>(1.2 * even);
  EXPECT_LT(bytes(c), 1.3 * even * row);
  c.max_token_rows = 0, c.max_rows = 8192 * 8 * 6 / 5;
  EXPECT_FALSE(c.packed()) << "as many tokens as all ranks have may come";
  c.ranks = 64;
  EXPECT_LT(bytes(c), 1.3 * 8192 * 7.68 * row);
  c.chunks = 2;
  EXPECT_GT(bytes(c), 6 * 8192 * 7.68 * row) << "slots for each rank";
}

TEST(PackedRowsArguments, AreNamed) {
  const auto message = [](const ExpertParallelConfig& c) {
    try {
      saved_bytes(c);
    } catch (const ArgumentError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  ExpertParallelConfig c{{10, 48, 24, 8, 2}, 2, 10};
  c.max_token_rows = 21;
  EXPECT_EQ(message(c), "max_token_rows is 21: want 0 to ranks * max_tokens = 20");
  c.max_token_rows = 7, c.chunks = 2;
  EXPECT_EQ(message(c), "max_token_rows is 7: want 0 with all_gather and with several chunks");
  c.chunks = 1, c.exchange = Exchange::all_gather;
  EXPECT_EQ(message(c), "max_token_rows is 7: want 0 with all_gather and with several chunks");
  c.exchange = Exchange::all_to_all;
  EXPECT_EQ(message(c), "");
}

}  // namespace
}  // namespace moeref::cuda::test
