// Training steps with everything drawn anew each time: routing, which tokens are real, how many of them each
// rank has. MOEREF_STEPS says how many.
#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"
#include "cuda_impl/tests/device_calls.hpp"

namespace moeref::cuda::test {
namespace {

constexpr std::int64_t kCapacity = 48;  // tokens of a rank at most

int steps() {
  const char* wanted = std::getenv("MOEREF_STEPS");
  return wanted ? std::atoi(wanted) : 8;
}

struct Way {
  DataType dtype;
  int ranks, chunks;
  Transport transport;
  const char* name;
  bool packs = false;  // windows with room for a token less of each rank than kCapacity
};
void PrintTo(const Way& w, std::ostream* out) { *out << w.name; }

struct Step {
  HostCase whole;
  Spread spread;
};
Step draw(const Way& way, int number) {
  std::mt19937_64 rng(1000 + static_cast<std::uint64_t>(number));
  const auto at_most = [&](std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(0, most)(rng);
  };
  const bool gathers = at_most(3) == 0 && !way.packs;
  const std::int64_t most = kCapacity - (way.packs ? 1 : 0);
  Step step{{},
            {{},
             gathers ? Exchange::all_gather : Exchange::all_to_all,
             way.transport,
             way.chunks,
             kCapacity,
             0,
             way.packs ? way.ranks * most : 0}};
  std::int64_t tokens = 0;
  for (int r = 0; r < way.ranks; ++r) {
    const std::int64_t kind = at_most(5), mine = kind == 0 ? 0 : kind == 1 ? most : at_most(most);
    step.spread.tokens.push_back(mine), tokens += mine;
  }
  ExpertsConfig c{tokens, 32, 16, 8 * way.ranks, 3};
  c.dtype = way.dtype;
  step.whole = way.dtype == DataType::float32 ? integer_case(c, rng()) : make_case(c, true, rng());
  HostCase& w = step.whole;
  const std::int64_t kind = at_most(7);
  const int one = static_cast<int>(at_most(c.experts - 1));
  for (int& id : w.ids) {
    if (kind == 0) id = one;  // all on one expert
    if (kind == 1) id %= 8;   // all on one rank
    if (kind == 2 && at_most(3) == 0) id = -1;
  }
  if (kind > 4)
    for (std::int64_t t = 0; t < tokens; ++t) w.mask.push_back(at_most(4) != 0);
  return step;
}

class RandomSteps : public testing::TestWithParam<Way> {};

/// The results of every step, each rank's put together; integers compared with one device's.
std::vector<NamedBits> run_steps(const Way& way) {
  std::vector<NamedBits> results(static_cast<std::size_t>(steps()));
  std::vector<NamedBits> by_rank(static_cast<std::size_t>(way.ranks));
  run_ranks(way.ranks, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world, group_options(way.transport));
    const Stream stream;
    std::shared_ptr<const RankedExperts::Windows> windows;
    std::int64_t held = 0;
    for (int s = 0; s < steps(); ++s) {
      const Step step = draw(way, s);
      {
        RankedExperts rank(step.whole, step.spread, *group, stream.get(), windows);
        windows = rank.windows();
        world->meet();  // cudaMalloc may wait for what runs on a peer's device
        rank.forward();
        rank.backward();
        rank.wait();
        by_rank[static_cast<std::size_t>(world->rank())] = rank.own.bits();
      }
      world->meet();
      if (world->rank() == 0) {
        NamedBits& all = results[static_cast<std::size_t>(s)] = put_together(by_rank);
        if (way.dtype == DataType::float32) {
          DeviceExperts alone(step.whole);
          alone.forward(stream.get()), alone.backward(stream.get());
          check(cudaStreamSynchronize(stream.get()), "one device");
          const NamedBits want = alone.bits();
          for (std::size_t i = 0; i < want.size(); ++i)
            EXPECT_EQ(all[i].second, want[i].second) << want[i].first << " of step " << s;
        }
      }
      world->meet();
      if (s == steps() / 4) {
        held = device_memory_held();
        world->meet();  // no rank allocates before all have looked
      }
    }
    EXPECT_EQ(device_memory_held(), held) << "device memory is lost";
    world->meet();
  });
  return results;
}

TEST_P(RandomSteps, AreRightAndTheSameBitsWhenRepeated) {
  const Way way = GetParam();
  MOEREF_NEEDS_RANKS(way.transport, way.ranks);
  const std::vector<NamedBits> first = run_steps(way), second = run_steps(way);
  for (std::size_t s = 0; s < first.size(); ++s)
    for (std::size_t i = 0; i < first[s].size(); ++i)
      EXPECT_EQ(first[s][i].second, second[s][i].second) << first[s][i].first << " of step " << s;
}

INSTANTIATE_TEST_SUITE_P(
    Ways, RandomSteps,
    testing::Values(Way{DataType::float32, 2, 1, Transport::automatic, "integers_2_ranks"},
                    Way{DataType::float32, 4, 3, Transport::automatic, "integers_4_ranks_in_chunks"},
                    Way{DataType::bfloat16, 2, 1, Transport::automatic, "bfloat16_2_ranks"},
                    Way{DataType::bfloat16, 2, 2, Transport::automatic, "bfloat16_2_ranks_in_chunks"},
                    Way{DataType::bfloat16, 4, 2, Transport::automatic, "bfloat16_4_ranks_in_chunks"},
                    Way{DataType::float32, 2, 2, Transport::nccl, "integers_2_ranks_nccl_in_chunks"},
                    Way{DataType::float32, 4, 1, Transport::automatic, "integers_4_ranks_packed", true},
                    Way{DataType::bfloat16, 2, 1, Transport::nccl, "bfloat16_2_ranks_nccl_packed", true},
                    Way{DataType::float32, 8, 2, Transport::automatic, "integers_8_ranks_in_chunks"},
                    Way{DataType::bfloat16, 8, 1, Transport::automatic, "bfloat16_8_ranks"},
                    Way{DataType::bfloat16, 8, 1, Transport::automatic, "bfloat16_8_ranks_packed", true},
                    Way{DataType::bfloat16, 8, 2, Transport::nccl, "bfloat16_8_ranks_nccl_in_chunks"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moeref::cuda::test
