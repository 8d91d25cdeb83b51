// Ranks that mpirun started, one in each process, with NCCL alone between them: MPI tells what the ranks must
// know of each other, and a step of the experts gives the bits of one device.
#include <gtest/gtest.h>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"

namespace moeref::cuda::test {
namespace {

Bootstrap& machines() {
  static const std::shared_ptr<Bootstrap> world = mpi_world();
  return *world;
}
std::shared_ptr<Bootstrap> all_machines() { return machines().split(0, machines().rank()); }

/// The arrays of all ranks one after another, on each.
NamedBits gathered(const NamedBits& mine) {
  NamedBits out;
  for (const auto& [name, bits] : mine) {
    std::vector<std::size_t> sizes(static_cast<std::size_t>(machines().size()));
    machines().all_gather(bits.size(), sizes.data());
    const std::size_t most = *std::max_element(sizes.begin(), sizes.end());
    std::vector<char> padded = bits, all(most * sizes.size());
    padded.resize(most);
    machines().all_gather(static_cast<const void*>(padded.data()), most, all.data());
    out.emplace_back(name, std::vector<char>());
    for (std::size_t r = 0; r < sizes.size(); ++r) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(r * most);
      out.back().second.insert(out.back().second.end(), begin, begin + static_cast<std::ptrdiff_t>(sizes[r]));
    }
  }
  return out;
}

TEST(Machines, BootstrapGathersAndSplits) {
  const int size = machines().size(), rank = machines().rank();
  ASSERT_GE(size, 2) << "to be started by mpirun -n 2";
  std::vector<int> all(static_cast<std::size_t>(size));
  machines().split(0, -rank)->all_gather(rank, all.data());
  for (int r = 0; r < size; ++r) EXPECT_EQ(all[static_cast<std::size_t>(r)], size - 1 - r);
}

TEST(Machines, SumsAreTheSameOnAll) {
  MOEREF_NEEDS_DEVICE();
  const auto group = Group::create(all_machines(), group_options(Transport::nccl));
  const Stream stream;
  const DeviceArray<std::int64_t> number(std::vector<std::int64_t>{1 << group->rank()});
  check(cudaStreamSynchronize(nullptr), "a number");
  group->sum(number.data(), 1, nullptr, 0, stream.get());
  group->synchronize(stream.get());
  EXPECT_EQ(number.get()[0], (1 << group->size()) - 1);
}

TEST(Machines, StepsHaveTheBitsOfOneDevice) {
  MOEREF_NEEDS_DEVICE();
  const auto ranks = static_cast<std::size_t>(machines().size());
  std::vector<std::int64_t> tokens(ranks, 40);
  tokens[0] = 23;
  ExpertsConfig f{std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}), 48, 24,
                  4 * machines().size(), 3};
  const HostCase c = integer_case(f, 17);
  DeviceExperts alone(c);
  alone.forward();
  alone.backward();
  check(cudaDeviceSynchronize(), "one device");
  const NamedBits want = alone.bits();
  const Spread plain{tokens, Exchange::all_to_all, Transport::nccl};
  Spread gathers = plain, in_chunks = plain;
  gathers.exchange = Exchange::all_gather, in_chunks.chunks = 2;
  for (const Spread& spread : {plain, gathers, in_chunks, packed(plain)}) {
    SCOPED_TRACE(testing::Message() << (spread.exchange == Exchange::all_gather ? "all-gather" : "all-to-all")
                                    << " in " << spread.chunks << ", room " << spread.max_token_rows);
    const auto group = Group::create(all_machines(), group_options(Transport::nccl));
    const Stream stream;
    RankedExperts rank(c, spread, *group, stream.get());
    for (int step = 0; step < 2; ++step) {
      rank.forward();
      rank.backward();
      rank.wait();
    }
    EXPECT_FALSE(group->stores_to((group->rank() + 1) % group->size()));
    const NamedBits got = gathered(rank.own.bits());
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i].second, want[i].second) << want[i].first;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
