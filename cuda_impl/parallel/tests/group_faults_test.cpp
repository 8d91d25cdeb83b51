// Groups on a device that fails, is slow or hides memory: the emulated one, which does so when it is told.
#include <gtest/gtest.h>
#include <sched.h>

#include "cuda_impl/parallel/peers.hpp"
#include "cuda_impl/parallel/tests/forked_ranks.hpp"
#include "cuda_impl/tests/device.hpp"
#include "emulated/faults.hpp"
#include "moeref/cuda/group.hpp"

namespace moeref::cuda::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

const std::vector<std::string> kBothWell{"", ""};

GroupOptions pair_options(Transport transport = Transport::automatic) {
  GroupOptions out;
  out.transport = transport;
  out.timeout = milliseconds(200);
  out.name = "pair";
  return out;
}

TEST(RunRanks, ADeviceThatTakesLongMakesNoRankLate) {
  emulated::slow_device(1, milliseconds(500));
  const auto meet = [] {
    run_ranks(
        2, [](const std::shared_ptr<Bootstrap>& world) { world->meet(); }, milliseconds(100));
  };
  EXPECT_NO_THROW(meet());
  emulated::slow_device(1, milliseconds(0));
}

/// Fails the nth call from now on.
std::function<cudaError_t()> nth(int n, std::shared_ptr<int> calls = std::make_shared<int>(0)) {
  return [n, calls] { return ++*calls == n ? cudaErrorMemoryAllocation : cudaSuccess; };
}

struct FailingCall {
  const char* name;
  Transport transport;
};
class GroupCreation : public testing::TestWithParam<FailingCall> {};
INSTANTIATE_TEST_SUITE_P(Calls, GroupCreation,
                         testing::Values(FailingCall{"cudaMalloc", Transport::nccl},
                                         FailingCall{"cudaHostAlloc", Transport::automatic},
                                         FailingCall{"cudaStreamCreate", Transport::automatic},
                                         FailingCall{"cudaEventCreate", Transport::automatic},
                                         FailingCall{"ncclCommInitRank", Transport::nccl}),
                         [](const auto& info) { return info.param.name; });

// Rank 1 fails at every call of the function in turn, until there is none left.
TEST_P(GroupCreation, AFailureOfOneRankIsAnErrorOnAll) {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  int failures = 0;
  for (bool created = false; !created; ++failures) {
    ASSERT_LT(failures, 200);
    std::string seen_by_0, seen_by_1;
    const auto begin = steady_clock::now();
    run_ranks(
        2,
        [&](const std::shared_ptr<Bootstrap>& world) {
          std::unique_ptr<emulated::Interception> fault;
          if (world->rank() == 1)
            fault = std::make_unique<emulated::Interception>(GetParam().name, nth(failures + 1));
          std::string& seen = world->rank() == 0 ? seen_by_0 : seen_by_1;
          try {
            Group::create(world, pair_options(GetParam().transport))->window(1000, Outbox::staged);
          } catch (const std::exception& e) {
            seen = e.what();
          }
        },
        std::chrono::seconds(5));
    EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(2));
    created = seen_by_1.empty();
    EXPECT_EQ(seen_by_0, created ? "" : "rank 1 of the pair: " + seen_by_1);
    std::size_t now = 0;
    check(cudaMemGetInfo(&now, &total), "cudaMemGetInfo");
    EXPECT_EQ(now, free);
  }
  EXPECT_GT(failures, 1) << "no call of " << GetParam().name << " was seen";
}

/// What rank 0 gets from a delivery over NCCL that begins after `before` and takes `pass`.
std::string delivery_over_nccl(milliseconds before, milliseconds pass) {
  std::string message;
  try {
    run_ranks(2, [&](const std::shared_ptr<Bootstrap>& world) {
      const auto group = Group::create(world, pair_options(Transport::nccl));
      WindowLayout layout(2);
      const Region region = layout.add(64);
      const Window window = group->window(layout.bytes());
      const Stream stream;
      emulated::occupy(stream.get(), before);
      emulated::slow_nccl(pass);
      const Delivery what[] = {{region}};
      try {
        for (int i = 0; i < 3; ++i) group->deliver(window, what, nullptr, stream.get());
        emulated::slow_nccl(milliseconds(0));
        group->synchronize(stream.get());
      } catch (const GroupError& e) {
        if (world->rank() == 0) message = e.what();
      }
      emulated::slow_nccl(milliseconds(0));
    });
  } catch (const GroupError&) {
  }
  return message;
}

TEST(NcclDelivery, HealthyWorkBeforeItIsNoLatePeer) {
  EXPECT_EQ(delivery_over_nccl(milliseconds(500), milliseconds(100)), "");
}
TEST(NcclDelivery, APassThatDoesNotEndNamesWhomItWaitsFor) {
  EXPECT_EQ(delivery_over_nccl(milliseconds(0), milliseconds(1000)),
            "rank 1 of the pair did not come within 200 ms over NCCL");
}

TEST(ForkedRanks, MeetAndSum) {
  EXPECT_EQ(run_forked(2, 1,
                       [](const std::shared_ptr<Bootstrap>& world, Board&) {
                         const auto group = Group::create(world, pair_options());
                         require(!group->needs_row_counts(), "reached over NCCL");
                         const Stream stream;
                         DeviceArray<std::int64_t> number(std::vector<std::int64_t>{world->rank() + 1});
                         group->sum(number.data(), 1, nullptr, 0, stream.get());
                         group->synchronize(stream.get());
                         require(number.get()[0] == 3, "another sum");
                       }),
            kBothWell);
}

TEST(ForkedRanks, AHandleThatCannotBeOpenedMeansNccl) {
  EXPECT_EQ(run_forked(2, 1,
                       [](const std::shared_ptr<Bootstrap>& world, Board&) {
                         setenv("MOEREF_EMULATED_NCCL", "sockets", 1);
                         std::unique_ptr<emulated::Interception> hidden;
                         if (world->rank() == 1)
                           hidden = std::make_unique<emulated::Interception>(
                               "cudaIpcOpenMemHandle", [] { return cudaErrorInvalidValue; });
                         const auto group = Group::create(world, pair_options());
                         require(!group->stores_to(1 - world->rank()), "no rank may store to the other");
                         require(group->needs_row_counts(), "not over NCCL");
                         group->window(1000);
                       }),
            kBothWell);
}

// Handles that could be opened when the group was made, and cannot now.
TEST(ForkedRanks, AWindowThatOneRankCannotOpenIsAnErrorOnAll) {
  const auto seen = run_forked(2, 1, [](const std::shared_ptr<Bootstrap>& world, Board& board) {
    const auto group = Group::create(world, pair_options());
    std::unique_ptr<emulated::Interception> fault;
    if (world->rank() == 1)
      fault = std::make_unique<emulated::Interception>("cudaIpcOpenMemHandle",
                                                       [] { return cudaErrorMemoryAllocation; });
    const emulated::Interception closes("cudaIpcCloseMemHandle", [&] {
      std::this_thread::sleep_for(milliseconds(200));
      ++board.free[0];
      return cudaSuccess;
    });
    try {
      group->window(1000);
    } catch (const std::exception& e) {
      require(board.free[0] == 1, "rank 0 has closed what it had opened before a rank goes on");
      throw;
    }
  });
  EXPECT_EQ(seen[0], "rank 1 of the pair: cudaIpcOpenMemHandle: out of memory");
  EXPECT_EQ(seen[1], "cudaIpcOpenMemHandle: out of memory");
}

TEST(ForkedRanks, NoRankReleasesWhatAnotherHasOpen) {
  enum { kCloses, kEarly };
  EXPECT_EQ(run_forked(2, 1,
                       [](const std::shared_ptr<Bootstrap>& world, Board& board) {
                         auto group = Group::create(world, pair_options());
                         group->window(1000);
                         const emulated::Interception closes("cudaIpcCloseMemHandle", [&] {
                           if (world->rank() == 1) std::this_thread::sleep_for(milliseconds(200));
                           ++board.free[kCloses];
                           return cudaSuccess;
                         });
                         const emulated::Interception releases("cudaFree", [&] {
                           if (board.free[kCloses] < 4) board.free[kEarly] = 1;
                           return cudaSuccess;
                         });
                         group.reset();
                         require(board.free[kCloses] == 4, "two windows, two ranks");
                         require(!board.free[kEarly], "released while it was open");
                       }),
            kBothWell);
}

TEST(ForkedRanks, SeveralInOneProcessAndOthersElsewhereAreRefused) {
  for (const std::string& seen : run_forked(2, 2, [](const std::shared_ptr<Bootstrap>&world, Board&) {
         Group::create(world, pair_options());
       }))
    EXPECT_EQ(
        seen,
        "the pair has several ranks in one process and others elsewhere, whose kernels would wait for each "
        "other: want one rank in each process, or all ranks in one");
}

// Each rank is the first process of a container of its own.
TEST(ForkedRanks, ProcessesOfOneNumberAreNotOneProcess) {
  const pid_t probe = fork();
  if (probe == 0) _exit(unshare(CLONE_NEWPID) == 0 ? 0 : 1);
  int status = 0;
  waitpid(probe, &status, 0);
  if (status != 0) GTEST_SKIP() << "unshare is not allowed here: nothing was tested";
  const auto into_a_container = [] {
    if (unshare(CLONE_NEWPID) != 0) _exit(1);
    if (const pid_t child = fork(); child != 0) {
      waitpid(child, nullptr, 0);
      _exit(0);
    }
  };
  EXPECT_EQ(run_forked(
                2, 1,
                [](const std::shared_ptr<Bootstrap>& world, Board&) {
                  require(getpid() == 1, "no container");
                  const Peers peers = find_peers(*world, "pair");
                  require(peers.placement == Placement::processes, "taken for threads of one process");
                  require(peers.reach[1 - world->rank()] != Reach::process, "taken for one process");
                },
                into_a_container),
            kBothWell);
}

}  // namespace
}  // namespace moeref::cuda::test
