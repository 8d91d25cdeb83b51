// Ranks that die, stop, fail or are late at any step of a layer's two exchanges: the others come to an end
// with an error, and what comes next works. Drawn; MOEREF_FAULT_DRAWS says how many, a failing draw says its
// number.
#include <gtest/gtest.h>

#include <random>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"
#include "cuda_impl/parallel/tests/forked_ranks.hpp"
#include "emulated/faults.hpp"

namespace moeref::cuda::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kTimeout{
    150};  // in kernels and NCCL; on the host threads have longer than a late one takes
constexpr int kRanks = 3;

enum class Fault { killed, stopped, fails, late, in_time };
const char* const kFaultNames[] = {"is killed", "stops", "fails", "is late", "comes in time"};

struct Draw {
  Spread spread;
  Fault fault;
  bool processes;
  int victim, step;  // the kernel launch before which it happens
};

void PrintTo(const Draw& d, std::ostream* out) {
  *out << "rank " << d.victim << " of " << (d.processes ? "processes " : "threads ")
       << kFaultNames[static_cast<int>(d.fault)] << " before launch " << d.step << ", "
       << (d.spread.exchange == Exchange::all_gather ? "all-gather" : "all-to-all") << " in "
       << d.spread.chunks << (d.spread.transport == Transport::nccl ? " over NCCL" : "");
}

HostCase small_case() {
  ExpertsConfig f{30, 16, 8, 6, 2};
  f.path = ExpertsPath::portable;
  return make_case(f, false, 3);
}

/// Forward and backward of one rank; `step` counts its launches and acts before the one that is drawn.
void run_rank(const std::shared_ptr<Bootstrap>& world, const HostCase& c, const Spread& spread,
              const std::function<cudaError_t()>& step) {
  GroupOptions options = group_options(spread.transport);
  options.timeout = kTimeout;
  const auto group = Group::create(world, options);
  const Stream stream;
  RankedExperts rank(c, spread, *group, stream.get());
  const emulated::Interception steps("launch", step);
  rank.forward();
  rank.backward();
  rank.wait();
}

std::function<cudaError_t()> steps_of(const Draw& d, int rank) {
  if (rank != d.victim) return [] { return cudaSuccess; };
  return [d, count = std::make_shared<int>(0)] {
    if ((*count)++ != d.step) return cudaSuccess;
    switch (d.fault) {
      case Fault::killed:
        raise(SIGKILL);
        break;
      case Fault::stopped:
        raise(SIGSTOP);
        break;
      case Fault::fails:
        return cudaErrorInvalidConfiguration;
      case Fault::late:
        std::this_thread::sleep_for(4 * kTimeout);
        break;
      case Fault::in_time:
        std::this_thread::sleep_for(kTimeout / 5);
    }
    return cudaSuccess;
  };
}

/// What each rank ended with, "" for well.
std::vector<std::string> outcomes(const Draw& d) {
  const HostCase c = small_case();
  if (d.processes)
    return run_forked(
        kRanks, 1,
        [&](const std::shared_ptr<Bootstrap>& world, Board&) {
          run_rank(world, c, d.spread, steps_of(d, world->rank()));
        },
        [] {}, 2 * kTimeout);
  std::vector<std::string> out(kRanks);
  try {
    run_ranks(
        kRanks,
        [&](const std::shared_ptr<Bootstrap>& world) {
          try {
            run_rank(world, c, d.spread, steps_of(d, world->rank()));
          } catch (const std::exception& e) {
            out[static_cast<std::size_t>(world->rank())] = e.what();
            throw;
          }
        },
        8 * kTimeout);
  } catch (const std::exception&) {  // as one of the ranks says
  }
  return out;
}

/// Of a rank that is a thread: a process has some more.
int launches(const Spread& spread, int rank) {
  int count = 0;
  const HostCase c = small_case();
  run_ranks(kRanks, [&](const std::shared_ptr<Bootstrap>& world) {
    run_rank(world, c, spread, [&, counted = world->rank() == rank] {
      count += counted;
      return cudaSuccess;
    });
  });
  return count;
}

Draw draw(std::uint64_t number) {
  std::mt19937_64 rng(number);
  const auto below = [&](std::uint64_t n) { return static_cast<int>(rng() % n); };
  Draw d{};
  d.processes = below(2) == 1;
  d.spread = {{11, 0, 19},
              below(2) ? Exchange::all_gather : Exchange::all_to_all,
              !d.processes && below(3) == 0 ? Transport::nccl : Transport::automatic,
              1 + below(2)};
  d.fault = d.processes ? static_cast<Fault>(below(5)) : static_cast<Fault>(2 + below(3));
  d.victim = below(kRanks);
  d.step = below(static_cast<std::uint64_t>(launches(d.spread, d.victim)));
  return d;
}

TEST(Faults, EverySurvivorComesToAnEnd) {
  MOEREF_NEEDS_DEVICE();
  const char* const wanted = std::getenv("MOEREF_FAULT_DRAWS");
  const int draws = wanted ? std::atoi(wanted) : 12;
  std::size_t free_before = 0, free = 0, total = 0;
  check(cudaMemGetInfo(&free_before, &total), "cudaMemGetInfo");
  for (int number = 0; number < draws; ++number) {
    const Draw d = draw(static_cast<std::uint64_t>(number));
    SCOPED_TRACE(testing::Message() << "draw " << number << ": " << testing::PrintToString(d));
    const auto begin = steady_clock::now();
    const std::vector<std::string> ended = outcomes(d);
    EXPECT_LT(steady_clock::now() - begin, 20 * kTimeout);
    for (int r = 0; r < kRanks; ++r) {
      const std::string& how = ended[static_cast<std::size_t>(r)];
      if (d.fault == Fault::in_time)
        EXPECT_EQ(how, "") << "rank " << r;
      else if (r == d.victim && (d.fault == Fault::killed || d.fault == Fault::stopped))
        EXPECT_EQ(how, kLost);
      else
        EXPECT_NE(how, kLost) << "rank " << r;
    }
    if (d.fault != Fault::in_time && d.fault != Fault::late) {
      EXPECT_GE(
          std::count_if(ended.begin(), ended.end(), [](const std::string& how) { return !how.empty(); }), 1);
    }
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    EXPECT_EQ(free, free_before) << "memory that does not return";
    Draw well = d;
    well.fault = Fault::in_time, well.step = -1;
    EXPECT_EQ(outcomes(well), std::vector<std::string>(kRanks)) << "the next group";
    if (testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
