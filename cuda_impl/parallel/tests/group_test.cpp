// Ranks of a group: what is delivered, sums, and that no rank waits for ever.
#include "moeref/cuda/group.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "cuda_impl/tests/device.hpp"
#include "cuda_impl/tests/device_calls.hpp"

namespace moeref::cuda::test {
namespace {

using std::chrono::steady_clock;

// Before the program's first call to CUDA: ranks that share a device wait for each other in kernels here.
[[maybe_unused]] const int kLoadedAtOnce = setenv("CUDA_MODULE_LOADING", "EAGER", 0);

TEST(Bootstrap, GathersAndSplits) {
  MOEREF_NEEDS_DEVICE();
  std::vector<std::vector<int>> seen(6);
  run_ranks(6, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto part = world->split(world->rank() % 2, -world->rank());  // keys turn the order round
    std::vector<int> all(3);
    part->all_gather(world->rank(), all.data());
    seen[static_cast<std::size_t>(world->rank())] = all;
    EXPECT_EQ(all[static_cast<std::size_t>(part->rank())], world->rank());
  });
  for (std::size_t r = 0; r < 6; ++r)
    EXPECT_EQ(seen[r], (r % 2 ? std::vector<int>{5, 3, 1} : std::vector<int>{4, 2, 0}));
}

TEST(Bootstrap, ALostRankIsAnErrorForTheOthers) {
  MOEREF_NEEDS_DEVICE();
  const auto lost = [](bool throws) {
    run_ranks(
        3,
        [&](const std::shared_ptr<Bootstrap>& world) {
          if (world->rank() == 1 && throws) throw ArgumentError("rank 1 does not like it");
          if (world->rank() != 1) world->meet();
        },
        std::chrono::milliseconds(200));
  };
  EXPECT_THROW(lost(true), ArgumentError);  // what ended the run, not what that did to the others
  try {
    lost(false);
    ADD_FAILURE() << "nobody missed rank 1";
  } catch (const GroupError& e) {
    EXPECT_STREQ(e.what(), "rank 1 did not come within 200 ms");
  }
}

/// Threads meet by events or, as processes do, in kernels.
class GroupMeeting : public testing::TestWithParam<bool> {
 protected:
  static GroupOptions options() {
    GroupOptions out;
    out.kernels_wait = GetParam();
    out.timeout = std::chrono::seconds(10);
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, GroupMeeting, testing::Bool(),
                         [](const auto& info) { return info.param ? "in_kernels" : "automatic"; });

TEST_P(GroupMeeting, DeliversEverySlotToItsRank) {
  MOEREF_NEEDS_DEVICE();
  constexpr int kRanks = 8;
  const std::string apart = run_ranks_together(kRanks, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world, options());
    WindowLayout layout(kRanks);
    layout.add(100);
    const Region region = layout.add(sizeof(int));
    const Window window = group->window(layout.bytes());
    const Stream own;
    const cudaStream_t stream = own.get();
    for (int round = 1; round <= 3; ++round) {
      const RankPointers slots = window.slots(region);
      for (int p = 0; p < kRanks; ++p) {
        const int value = 1000 * round + 10 * world->rank() + p;
        check(cudaMemcpyAsync(slots.of[p], &value, sizeof value, cudaMemcpyHostToDevice, stream),
              "cudaMemcpyAsync");
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      }
      const Delivery what[] = {{region}};
      group->deliver(window, what, nullptr, stream);
      std::vector<int> got(kRanks);
      check(cudaMemcpyAsync(got.data(), window.received<int>(region), got.size() * sizeof(int),
                            cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
      group->synchronize(stream);
      for (int r = 0; r < kRanks; ++r)
        EXPECT_EQ(got[static_cast<std::size_t>(r)], 1000 * round + 10 * r + world->rank());
      group->deliver(window, {}, nullptr, stream);  // all have read
      group->synchronize(stream);
    }
  });
  MOEREF_SKIP(apart);
}

// Of each staged slot the rows of a range that are used, or usual; what lies behind them at the peer stays as
// it was.
TEST_P(GroupMeeting, StagedRowsAreCopiedAsFarAsTheyAreUsed) {
  MOEREF_NEEDS_DEVICE();
  constexpr int kRanks = 3, kRows = 700;
  const auto used_by = [](int from, int to) { return (211 * from + 97 * to) % (kRows + 1); };
  struct Rows {
    int width, usual;  // of 16-bit numbers: whole 16 bytes and others
  };
  for (const Rows each : {Rows{1, 0}, {3, 0}, {8, 0}, {24, 0}, {3, 200}, {8, 300}, {8, 450}, {3, kRows}}) {
    const int width = each.width, usual = each.usual;
    SCOPED_TRACE(testing::Message() << "rows of " << width << ", usual are " << usual);
    const std::string apart = run_ranks_together(kRanks, [&](const std::shared_ptr<Bootstrap>& world) {
      const int me = world->rank(), count = kRows * width;
      const auto group = Group::create(world, options());
      WindowLayout layout(kRanks);
      layout.add(100);
      const std::size_t row_bytes = static_cast<std::size_t>(width) * 2;
      const Region region = layout.add(kRows * row_bytes);
      const Window window = group->window(layout.bytes(), Outbox::staged);
      const Stream stream;
      std::vector<int> used(kRanks);
      for (int p = 0; p < kRanks; ++p) {
        used[static_cast<std::size_t>(p)] = used_by(me, p);
        const std::vector<std::uint16_t> slot(static_cast<std::size_t>(count),
                                              static_cast<std::uint16_t>(1 + 10 * me + p));
        check(cudaMemcpy(window.slots(region, Outbox::staged).of[p], slot.data(), slot.size() * 2,
                         cudaMemcpyHostToDevice),
              "cudaMemcpy");
      }
      const DeviceArray<int> used_here(used);
      check(cudaStreamSynchronize(nullptr), "slots");
      for (const auto& [first, rows] : {std::pair{0, 300}, std::pair{300, kRows - 300}}) {
        const Delivery what[] = {
            {region, row_bytes, first, rows, Outbox::staged, used_here.data(), nullptr, nullptr, usual}};
        group->deliver(window, what, nullptr, stream.get());
        std::vector<std::uint16_t> got(static_cast<std::size_t>(kRanks * count));
        check(cudaMemcpyAsync(got.data(), window.received<char>(region), got.size() * 2,
                              cudaMemcpyDeviceToHost, stream.get()),
              "cudaMemcpyAsync");
        group->synchronize(stream.get());
        for (int r = 0; r < kRanks; ++r)
          for (int i = 0; i < count; ++i) {
            const bool there = r == me || i < std::min(std::max(usual, used_by(r, me)), first + rows) * width;
            ASSERT_EQ(got[static_cast<std::size_t>(r * count + i)], there ? 1 + 10 * r + me : 0)
                << "number " << i << " from rank " << r << " after rows " << first << " to " << first + rows;
          }
        group->deliver(window, {}, nullptr, stream.get());  // all have read
        group->synchronize(stream.get());
      }
    });
    MOEREF_SKIP(apart);
  }
}

TEST_P(GroupMeeting, SumsAreExactAndTheSameOnAllRanks) {
  MOEREF_NEEDS_DEVICE();
  constexpr int kRanks = 8, kInts = 1025, kReals = 1024;
  std::vector<std::vector<double>> results(kRanks);
  const std::string apart = run_ranks_together(kRanks, [&](const std::shared_ptr<Bootstrap>& world) {
    const int r = world->rank();
    const auto group = Group::create(world, options());
    const Stream own;
    const cudaStream_t stream = own.get();
    DeviceArray<std::int64_t> device_integers(kInts);
    DeviceArray<double> device_reals(kReals);
    for (int round = 0; round < 4; ++round) {
      std::vector<std::int64_t> integers(kInts);
      std::vector<double> reals(kReals);
      for (int i = 0; i < kInts; ++i)
        integers[i] = (std::int64_t{1} << 57) / (1 + i) * (2 * r + 1 - kRanks) + i + round;
      for (int i = 0; i < kReals; ++i) reals[i] = 1.0 / (3 + i + r) + round;
      device_integers.set(integers), device_reals.set(reals);
      check(cudaStreamSynchronize(nullptr), "inputs");  // the device may run a rank that waits
      group->sum(device_integers.data(), kInts, device_reals.data(), kReals, stream);
      group->synchronize(stream);
      const auto got = device_integers.get();
      for (int i = 0; i < kInts; ++i) EXPECT_EQ(got[i], kRanks * (i + round));
      results[static_cast<std::size_t>(r)] = device_reals.get();
      for (int i = 0; i < kReals; ++i) {
        double want = 0;
        for (int p = 0; p < kRanks; ++p) want += 1.0 / (3 + i + p) + round;
        EXPECT_EQ(results[static_cast<std::size_t>(r)][i], want);
      }
      world->meet();
    }
    EXPECT_THROW(group->sum(nullptr, Group::kMaxSum + 1, nullptr, 0, stream), ArgumentError);
  });
  MOEREF_SKIP(apart);
  for (const std::vector<double>& reals : results) EXPECT_EQ(reals, results[0]);
}

// Nobody stores beyond what a peer has.
TEST(Group, WindowsOfOtherSizesAreRefusedOnAllRanks) {
  MOEREF_NEEDS_DEVICE();
  const std::string apart = run_ranks_together(2, [](const std::shared_ptr<Bootstrap>& world) {
    const auto group =
        Group::create(world, {Transport::automatic, std::chrono::milliseconds(5000), "pair", false});
    const auto message = [&](std::size_t bytes, Outbox outbox) {
      try {
        group->window(bytes, outbox);
        return std::string("nothing");
      } catch (const ArgumentError& e) {
        return std::string(e.what());
      }
    };
    const bool first = world->rank() == 0;
    EXPECT_EQ(
        message(first ? 1024 : 512, Outbox::direct),
        "a window of the pair: rank 0 wants 1024 bytes, rank 1 wants 512 bytes: want the same on all ranks");
    EXPECT_EQ(message(512, first ? Outbox::direct : Outbox::staged),
              "a window of the pair: rank 0 wants 512 bytes, rank 1 wants staged slots and 512 bytes: want "
              "the same "
              "on all ranks");
    const Window window = group->window(512);  // the group goes on
    const Stream stream;
    group->deliver(window, {}, nullptr, stream.get());
    group->synchronize(stream.get());
  });
  MOEREF_SKIP(apart);
}

// An allocation that failed, say, and that the application did without.
TEST(Group, AnErrorFromBeforeIsNotTheGroups) {
  MOEREF_NEEDS_DEVICE();
  const std::string apart = run_ranks_together(2, [](const std::shared_ptr<Bootstrap>& world) {
    leave_an_error();
    const auto group =
        Group::create(world, {Transport::automatic, std::chrono::milliseconds(5000), "pair", true});
    leave_an_error();
    const Window window = group->window(512);
    const Stream stream;
    leave_an_error();
    group->deliver(window, {}, nullptr, stream.get());
    DeviceArray<std::int64_t> number(1);
    leave_an_error();
    group->sum(number.data(), 1, nullptr, 0, stream.get());
    group->synchronize(stream.get());
  });
  MOEREF_SKIP(apart);
}

/// Rank 1 leaves or fails before it exchanges anything; what the other gets, and after how long.
std::string message_of_a_loss(bool fails, std::chrono::milliseconds& took,
                              Transport transport = Transport::automatic) {
  std::string message;
  try {
    run_ranks(2, [&](const std::shared_ptr<Bootstrap>& world) {
      const auto group = Group::create(world, {transport, std::chrono::milliseconds(300), "pair", true});
      WindowLayout layout(2);
      const Region region = layout.add(64);
      const Window window = group->window(layout.bytes());
      const Delivery what[] = {{region}};
      if (world->rank() == 1) {
        if (fails) throw ArgumentError("rank 1 does not like it");
        std::this_thread::sleep_for(std::chrono::seconds(2));
        return;
      }
      const Stream own;
      const cudaStream_t stream = own.get();
      const auto begin = steady_clock::now();
      try {
        for (int i = 0; i < 3; ++i) group->deliver(window, what, nullptr, stream);
        group->synchronize(stream);
      } catch (const std::exception& e) {
        message = e.what();
      }
      took = std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - begin);
      cudaStreamSynchronize(stream);
    });
  } catch (const ArgumentError&) {
  } catch (const GroupError&) {
  }
  return message;
}

TEST(Group, AnAbsentRankIsAnErrorInBoundedTime) {
  MOEREF_NEEDS_DEVICE();
  std::chrono::milliseconds took{};
  EXPECT_EQ(message_of_a_loss(false, took), "rank 1 of the pair did not come within 300 ms");
  EXPECT_LT(took.count(), 1900);
}

TEST(Group, ARankThatFailsTellsTheOthers) {
  MOEREF_NEEDS_DEVICE();
  std::chrono::milliseconds took{};
  const std::string message = message_of_a_loss(true, took);
  EXPECT_TRUE(message == "rank 1 of the pair gave up" ||
              message == "rank 1 of the pair did not come within 300 ms")
      << message;
  EXPECT_LT(took.count(), 1900);
}

TEST(Group, OverNcclALostRankIsAnErrorInBoundedTime) {
  MOEREF_NEEDS_RANKS(Transport::nccl, 2);
  for (const bool fails : {false, true}) {
    // The emulated NCCL receives on the host: it ends when the other has given up, or in its own time.
    if (kRunsKernelsTogether && !fails) continue;
    std::chrono::milliseconds took{};
    const std::string message = message_of_a_loss(fails, took, Transport::nccl);
    if (kRunsKernelsTogether)  // which of the two says whether the other gave up in a pass or before it
      EXPECT_TRUE(message == "cudaEventRecord: unspecified launch failure" ||
                  message == "NCCL in the pair: the communicator was aborted or misused")
          << message;
    else
      EXPECT_EQ(message, "rank 1 of the pair did not come within 300 ms over NCCL");
    EXPECT_LT(took.count(), 15000);  // NCCL takes its time to end on a busy host
  }
}

// NCCL tells it those two alone; a rank with a device of its own would wait for them.
TEST(Group, OverNcclRanksThatShareADeviceAreAnErrorOnAll) {
  MOEREF_NEEDS_DEVICE();
  const int last = std::min(device_count() - 1, 1);
  std::vector<std::string> said(3);
  const auto begin = steady_clock::now();
  run_ranks(3, [&](const std::shared_ptr<Bootstrap>& world) {
    const int rank = world->rank();
    check(cudaSetDevice(std::min(rank, last)), "cudaSetDevice");
    try {
      Group::create(world, {Transport::nccl, std::chrono::seconds(20), "trio"});
    } catch (const GroupError& e) {
      said[static_cast<std::size_t>(rank)] = e.what();
    }
  });
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(15));
  const std::string pair = last == 0 ? "0 and 1" : "1 and 2";
  for (const std::string& message : said)
    EXPECT_EQ(message, "ranks " + pair + " of the trio share a device: NCCL wants one for each");
}

// Each tells the others, whose memory may be about to go.
TEST(Group, RanksThatFailTogetherLoseNoMemory) {
  MOEREF_NEEDS_DEVICE();
  const auto fail_together = [] {
    run_ranks(3, [&](const std::shared_ptr<Bootstrap>& world) {
      const auto group = Group::create(world, {Transport::automatic, std::chrono::milliseconds(300), "trio"});
      const Window window = group->window(1 << 20);
      throw ArgumentError("no rank likes it");
    });
  };
  EXPECT_THROW(fail_together(), std::exception);  // and what the runtime allocates once
  const std::int64_t held = device_memory_held();
  for (int i = 0; i < 20; ++i) EXPECT_THROW(fail_together(), std::exception);
  EXPECT_EQ(device_memory_held(), held);
}

}  // namespace
}  // namespace moeref::cuda::test
