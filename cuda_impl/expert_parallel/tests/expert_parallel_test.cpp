// Experts spread over ranks against fp64 on the host and, where no sum rounds, against one device bit for
// bit. Ranks are threads; where there are fewer devices they share them.
#include <gtest/gtest.h>

#include <cstring>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"

namespace moeref::cuda::test {
namespace {

std::vector<double> values_of(DataType type, const std::vector<char>& bits) {
  std::vector<double> out(bits.size() / bytes_of(type));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = read_element(type, &bits[i * bytes_of(type)]);
  return out;
}

void expect_right(const HostCase& c, const Spread& spread) {
  const HostResult want = host_experts(c);
  const ExpertsConfig& f = c.config;
  const std::vector<std::pair<const std::vector<double>*, std::int64_t>> right{
      {&want.output, f.dim},
      {&want.dx, f.dim},
      {&want.dgate_up, f.up_width()},
      {&want.ddown, f.dim},
      {&want.dgate_up_bias, f.up_width()},
      {&want.ddown_bias, f.dim},
      {&want.dweights, static_cast<std::int64_t>(want.dweights.size())}};
  const NamedBits got = run_spread(c, spread);
  ASSERT_EQ(got.size(), right.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    expect_close(got[i].first, f.dtype,
                 values_of(i + 1 == got.size() ? DataType::float32 : f.dtype, got[i].second), *right[i].first,
                 right[i].second);
}

ExpertsConfig small(std::int64_t tokens, int experts, int slots, DataType dtype = DataType::bfloat16) {
  ExpertsConfig c{tokens, 48, 24, experts, slots};
  c.dtype = dtype;
  return c;
}

struct Way {
  Exchange exchange;
  Transport transport;
  int chunks;
  const char* name;
  bool packs = false;
};
void PrintTo(const Way& w, std::ostream* out) { *out << w.name; }
class ExpertParallel : public testing::TestWithParam<Way> {
 protected:
  static Spread over(std::vector<std::int64_t> tokens) {
    const Spread spread{std::move(tokens), GetParam().exchange, GetParam().transport, GetParam().chunks};
    return GetParam().packs ? packed(spread) : spread;
  }
};
TEST_P(ExpertParallel, EveryNumberOfRanksIsRight) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  for (const DataType type : {DataType::float32, DataType::bfloat16, DataType::float16})
    for (const std::vector<std::int64_t>& tokens : std::vector<std::vector<std::int64_t>>{
             {40, 37}, {0, 50}, {13, 0, 300, 1}, {5, 9, 0, 0, 31, 2, 8, 270}}) {
      if (!enough_devices(GetParam().transport, static_cast<int>(tokens.size()))) continue;
      const Spread spread = over(tokens);
      SCOPED_TRACE(testing::Message() << tokens.size() << " ranks, type " << static_cast<int>(type));
      HostCase c = make_case(
          small(std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}), 16, 3, type), true, 7);
      for (std::size_t t = 0; t < static_cast<std::size_t>(c.config.tokens); ++t)
        c.mask.push_back(t % 7 != 3);
      for (std::size_t i = 0; i < c.ids.size(); i += 11) c.ids[i] = i % 2 ? -1 : 16;  // no expert
      expect_right(c, spread);
    }
}

// As many tokens as take the products for few rows, and a rank without any.
TEST_P(ExpertParallel, FewTokensAreRight) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  const std::int64_t most = GetParam().packs ? 1 : 2;  // with packed rows there is room for one more
  for (const std::vector<std::int64_t>& tokens : std::vector<std::vector<std::int64_t>>{{1, most}, {0, 1}}) {
    const Spread spread = over(tokens);
    const HostCase c = make_case(small(tokens[0] + tokens[1], 64, 2), true, 9);
    const ExpertParallelConfig parallel{c.config, 2, spread.most()};
    EXPECT_EQ(selected_path(parallel.own()), ExpertsPath::few_rows);
    expect_right(c, spread);
  }
}

// Room for many more rows than there are, whose blocks take several each.
TEST_P(ExpertParallel, RoomForManyGivesTheSameBits) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  const HostCase c = make_case(small(77, 8, 2), true, 12);
  Spread spread = over({40, 37});
  const NamedBits want = run_spread(c, spread);
  // Also for each of three parts, which then are no multiple of what a block takes.
  spread.capacity = 25001;
  EXPECT_EQ(run_spread(c, spread), want);
}

// Bit for bit what one device makes of all tokens: y, dx, the routing weights' and the parameters' gradients.
TEST_P(ExpertParallel, IntegersAreTheSameBitsForAnyNumberOfRanks) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  const HostCase c = integer_case(small(96, 8, 2), 5);
  DeviceExperts alone(c);
  alone.forward();
  alone.backward();
  check(cudaDeviceSynchronize(), "experts");
  const NamedBits want = alone.bits();
  for (const std::vector<std::int64_t>& tokens : std::vector<std::vector<std::int64_t>>{
           {96}, {48, 48}, {95, 1}, {0, 96}, {1, 2, 3, 90}, {12, 12, 12, 12, 12, 12, 12, 12}}) {
    if (!enough_devices(GetParam().transport, static_cast<int>(tokens.size()))) continue;
    const NamedBits got = run_spread(c, over(tokens));
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_EQ(got[i].second, want[i].second) << want[i].first << " on " << tokens.size() << " ranks";
  }
}

TEST_P(ExpertParallel, RoutingExtremes) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  const Spread spread = over({33, 70});
  HostCase one = make_case(small(103, 2, 2), false, 3);  // E / n = 1
  expect_right(one, spread);
  std::fill(one.ids.begin(), one.ids.end(), 1);  // all on one expert, twice in every token
  expect_right(one, spread);
  std::fill(one.ids.begin(), one.ids.end(), -1);  // no expert works
  expect_right(one, spread);
  HostCase idle = make_case(small(103, 12, 2), true, 4);
  for (int& id : idle.ids) id %= 3;  // experts and, with them, a whole rank without tokens
  expect_right(idle, spread);
  HostCase narrow = make_case(small(103, 4, 2), true, 6);  // rows that are no multiple of 16 bytes
  narrow.config.dim = 23;
  HostCase odd = make_case(narrow.config, true, 6);
  expect_right(odd, spread);
  expect_right(make_case(small(0, 4, 2), true, 8), over({0, 0}));
}

/// Of two ranks, and of eight with one expert each.
const std::vector<std::vector<std::int64_t>> kStepTokens = {{61, 17}, {61, 17, 0, 5, 30, 1, 8, 12}};

/// Tokens and routing of one step on every rank.
HostCase step_case(int step, const std::vector<std::int64_t>& tokens) {
  HostCase c = make_case(small(std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}), 8, 2), false,
                         100 + step);
  if (step % 5 == 4) std::fill(c.ids.begin(), c.ids.end(), step % 8);
  return c;
}

// Many steps through the same windows, every step with other routing: a rank that runs ahead must not write
// what another one still reads.
void take_many_steps(const Spread& spread) {
  const int steps = 25;
  std::vector<HostCase> cases;
  for (int s = 0; s < 5; ++s) cases.push_back(step_case(s, spread.tokens));
  std::vector<NamedBits> want;
  for (const HostCase& c : cases) want.push_back(run_spread(c, spread));
  std::vector<std::vector<NamedBits>> got(cases.size(), std::vector<NamedBits>(spread.tokens.size()));
  run_ranks(spread.ranks(), [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world, group_options(spread.transport));
    const Stream stream;
    std::vector<std::unique_ptr<RankedExperts>> ranks;
    for (const HostCase& c : cases)
      ranks.push_back(std::make_unique<RankedExperts>(c, spread, *group, stream.get()));
    for (int s = 0; s < steps; ++s) {
      // Not in step with each other: some ranks queue several steps while others wait for each.
      RankedExperts& now = *ranks[static_cast<std::size_t>(s) % cases.size()];
      now.forward();
      now.backward();
      if ((s + world->rank()) % 3 == 0) now.wait();
    }
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      ranks[i]->wait();
      got[i][static_cast<std::size_t>(world->rank())] = ranks[i]->own.bits();
    }
    world->meet();
  });
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const NamedBits all = put_together(got[i]);
    for (std::size_t j = 0; j < all.size(); ++j)
      EXPECT_EQ(all[j].second, want[i][j].second) << all[j].first << " of case " << i;
  }
}
TEST_P(ExpertParallel, ManyStepsThroughTheSameWindows) {
  MOEREF_NEEDS_RANKS(GetParam().transport, 2);
  for (const std::vector<std::int64_t>& tokens : kStepTokens) {
    if (!enough_devices(GetParam().transport, static_cast<int>(tokens.size()))) continue;
    SCOPED_TRACE(testing::Message() << tokens.size() << " ranks");
    take_many_steps(over(tokens));
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, ExpertParallel,
                         testing::Values(Way{Exchange::all_to_all, Transport::automatic, 1, "all_to_all"},
                                         Way{Exchange::all_gather, Transport::automatic, 1, "all_gather"},
                                         Way{Exchange::all_to_all, Transport::automatic, 3, "in_chunks"},
                                         Way{Exchange::all_gather, Transport::automatic, 2,
                                             "all_gather_in_chunks"},
                                         Way{Exchange::all_to_all, Transport::nccl, 1, "all_to_all_nccl"},
                                         Way{Exchange::all_gather, Transport::nccl, 1, "all_gather_nccl"},
                                         Way{Exchange::all_to_all, Transport::nccl, 2, "nccl_in_chunks"},
                                         Way{Exchange::all_to_all, Transport::automatic, 1, "packed", true},
                                         Way{Exchange::all_to_all, Transport::nccl, 1, "packed_nccl", true}),
                         [](const auto& info) { return info.param.name; });

// The whole step of every rank is captured once and replayed with other routings.
class ExpertParallelGraph : public testing::TestWithParam<Way> {};
INSTANTIATE_TEST_SUITE_P(Ways, ExpertParallelGraph,
                         testing::Values(Way{Exchange::all_to_all, Transport::automatic, 1, "all_to_all"},
                                         Way{Exchange::all_to_all, Transport::automatic, 2, "in_chunks"},
                                         Way{Exchange::all_to_all, Transport::automatic, 1, "packed", true}),
                         [](const auto& info) { return info.param.name; });
/// Gives what to skip the test with where ranks share a device and did not run together.
std::string replay(const Spread& spread) {
  const HostCase first = step_case(0, spread.tokens), second = step_case(1, spread.tokens);
  const NamedBits want[] = {run_spread(first, spread), run_spread(second, spread)};
  std::vector<std::vector<NamedBits>> got(2, std::vector<NamedBits>(spread.tokens.size()));
  const std::string apart = run_ranks_together(spread.ranks(), [&](const std::shared_ptr<Bootstrap>& world) {
    const int r = world->rank();
    const auto group = Group::create(world, group_options(spread.transport));
    const Stream stream;
    RankedExperts rank(first, spread, *group, stream.get());
    rank.forward(), rank.backward(), rank.wait();  // kernels are loaded
    world->meet();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(rank.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    rank.forward(), rank.backward();
    check(cudaStreamEndCapture(rank.stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    for (std::size_t i = 0; i < 2; ++i) {
      const HostCase share = share_of(i == 0 ? first : second, spread, r);
      rank.own.ids.set(share.ids), rank.own.weights.set(share.weights);
      rank.own.x.set(share.x), rank.own.d_output.set(share.d_output);
      rank.own.gate_up.set(share.gate_up), rank.own.down.set(share.down);
      rank.own.poison(0xff);
      check(cudaStreamSynchronize(nullptr), "new inputs");
      world->meet();
      check(cudaGraphLaunch(exec, rank.stream), "cudaGraphLaunch");
      rank.wait();
      got[i][static_cast<std::size_t>(r)] = rank.own.bits();
      world->meet();
    }
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  });
  if (!apart.empty()) return apart;
  for (std::size_t i = 0; i < 2; ++i) {
    const NamedBits all = put_together(got[i]);
    for (std::size_t j = 0; j < all.size(); ++j)
      EXPECT_EQ(all[j].second, want[i][j].second) << all[j].first << " of replay " << i;
  }
  return "";
}
TEST_P(ExpertParallelGraph, ReplaysWithOtherRoutings) {
  MOEREF_NEEDS_DEVICE();
  const Way& way = GetParam();
  for (const std::vector<std::int64_t>& tokens : kStepTokens) {
    SCOPED_TRACE(testing::Message() << tokens.size() << " ranks");
    const Spread slots{tokens, way.exchange, way.transport, way.chunks};
    MOEREF_SKIP(replay(way.packs ? packed(slots) : slots));
  }
}

TEST(ExpertParallelArguments, AreNamed) {
  ExpertParallelConfig c{small(10, 8, 2), 3, 10};
  const auto message = [&] {
    try {
      saved_bytes(c);
    } catch (const ArgumentError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message().find("ranks is 3: want a divisor of experts = 8"), std::string::npos) << message();
  c.ranks = 2, c.max_tokens = 9;
  EXPECT_NE(message().find("max_tokens is 9: want at least tokens = 10"), std::string::npos) << message();
  c.max_tokens = 10, c.chunks = 257;
  EXPECT_NE(message().find("chunks is 257: want 1 to 256 with 4 experts per rank"), std::string::npos)
      << message();
  c.chunks = 256;
  EXPECT_EQ(message(), "");
}

}  // namespace
}  // namespace moeref::cuda::test
