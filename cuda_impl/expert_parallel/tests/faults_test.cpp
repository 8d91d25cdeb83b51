// Ranks that die, stop, fail or are late at any step of a layer's two exchanges: the others come to an end
// with an error, and what comes next works. Drawn; MOEREF_FAULT_DRAWS says how many, MOEREF_FAULT_FIRST from
// which on, a failing draw says its number. Everything that uses a device runs in processes of its own.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <map>
#include <random>
#include <tuple>

#include "cuda_impl/expert_parallel/tests/ranked_experts.hpp"
#include "cuda_impl/parallel/tests/forked_ranks.hpp"
#include "cuda_impl/tests/device_calls.hpp"

namespace moeref::cuda::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// In kernels and NCCL; on the host threads have longer than a late one takes. Processes that share a GPU
/// run on it in turns; the emulated device shares its cores with other tests.
constexpr milliseconds kTimeout{kRunsKernelsTogether ? 300 : 2000};
constexpr int kMostRanks = 8;
/// More ranks share the same cores and devices.
milliseconds timeout_of(const Spread& spread) { return kTimeout * (spread.ranks() > 3 ? 3 : 1); }

enum class Fault { killed, stopped, fails, late, in_time };
const char* const kFaultNames[] = {"is killed", "stops", "fails", "is late", "comes in time"};
enum class Ranks { threads, processes, over_nccl };  // over NCCL: threads
const char* const kRanksNames[] = {"threads", "processes", "over_nccl"};

struct Draw {
  Spread spread;
  Fault fault;
  Ranks ranks;
  int victim, step;  // the kernel launch before which it happens
};

void PrintTo(const Draw& d, std::ostream* out) {
  *out << "rank " << d.victim << " of " << d.spread.ranks() << " "
       << (d.ranks == Ranks::processes ? "processes " : "threads ") << kFaultNames[static_cast<int>(d.fault)]
       << " before launch " << d.step << ", "
       << (d.spread.exchange == Exchange::all_gather ? "all-gather" : "all-to-all") << " in "
       << d.spread.chunks << (d.spread.max_token_rows > 0 ? " with packed rows" : "")
       << (d.ranks == Ranks::over_nccl ? " over NCCL" : "");
}

HostCase small_case(const Spread& spread) {
  ExpertsConfig f{spread.first(spread.ranks()), 16, 8, 2 * spread.ranks(), 2};
  f.path = ExpertsPath::portable;
  return make_case(f, false, 3);
}

/// Forward and backward of one rank; `step` counts its launches and acts before the one that is drawn.
void run_rank(const std::shared_ptr<Bootstrap>& world, const HostCase& c, const Spread& spread,
              const std::function<cudaError_t()>& step) {
  GroupOptions options = group_options(spread.transport);
  options.timeout = timeout_of(spread);
  const auto group = Group::create(world, options);
  const Stream stream;
  RankedExperts rank(c, spread, *group, stream.get());
  const BeforeLaunches steps(step);
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
        std::this_thread::sleep_for(4 * timeout_of(d.spread));
        break;
      case Fault::in_time:
        std::this_thread::sleep_for(timeout_of(d.spread) / 5);
    }
    return cudaSuccess;
  };
}

/// Nothing happens.
Draw undisturbed(Draw d) {
  d.fault = Fault::in_time, d.step = -1;
  return d;
}

/// What each rank ended with, "" for well.
std::vector<std::string> outcomes_of_threads(const Draw& d) {
  const HostCase c = small_case(d.spread);
  std::vector<std::string> out(d.spread.tokens.size());
  try {
    run_ranks(
        d.spread.ranks(),
        [&](const std::shared_ptr<Bootstrap>& world) {
          try {
            run_rank(world, c, d.spread, steps_of(d, world->rank()));
          } catch (const std::exception& e) {
            out[static_cast<std::size_t>(world->rank())] = e.what();
            throw;
          }
        },
        8 * timeout_of(d.spread));
  } catch (const std::exception&) {  // as one of the ranks says
  }
  return out;
}

std::vector<std::string> outcomes_of_processes(const Draw& d) {
  const HostCase c = small_case(d.spread);
  return run_forked(
      d.spread.ranks(), 1,
      [&](const std::shared_ptr<Bootstrap>& world, Board&) {
        run_rank(world, c, d.spread, steps_of(d, world->rank()));
      },
      [] {}, 2 * timeout_of(d.spread));
}

struct DeviceMemory {
  std::array<std::size_t, 8> free;
};
/// Of the devices, as a process of its own sees it.
DeviceMemory free_memory() {
  return in_child([] {
           setenv("CUDA_MODULE_LOADING", "LAZY", 1);  // it runs no kernel, and all of them take seconds
           DeviceMemory out{};
           for (int d = 0; d < std::min(device_count(), 8); ++d) {
             std::size_t total = 0;
             check(cudaSetDevice(d), "cudaSetDevice");
             check(cudaMemGetInfo(&out.free[static_cast<std::size_t>(d)], &total), "cudaMemGetInfo");
           }
           return out;
         })
      .value();
}

/// The driver has some time to take back what a process had.
bool returns(const DeviceMemory& before) {
  for (int looks = 0; looks < 20; ++looks) {
    const DeviceMemory now = free_memory();
    bool back = true;
    for (std::size_t d = 0; d < now.free.size(); ++d) back = back && now.free[d] >= before.free[d];
    if (back) return true;
    std::this_thread::sleep_for(milliseconds(250));
  }
  return false;
}

struct Ending {
  std::vector<std::string> drawn, next;  // of that group, and of an undisturbed one after it
  bool memory_returned;
  steady_clock::duration took;
};

Ending end_of_processes(const Draw& d) {
  static const DeviceMemory before = free_memory();
  Ending out{};
  const auto begin = steady_clock::now();
  out.drawn = outcomes_of_processes(d);
  out.took = steady_clock::now() - begin;
  out.memory_returned = returns(before);
  out.next = outcomes_of_processes(undisturbed(d));
  return out;
}

/// By a process that lives on.
Ending end_of_threads(const Draw& d) {
  struct Told {
    char drawn[kMostRanks][256], next[kMostRanks][256];
    bool memory_returned;
    steady_clock::duration took;
  };
  const auto tell = [](char(&to)[kMostRanks][256], const std::vector<std::string>& from) {
    for (std::size_t r = 0; r < from.size(); ++r) std::strncpy(to[r], from[r].c_str(), sizeof to[r] - 1);
  };
  const std::optional<Told> told = in_child([&] {
    Told out{};
    const std::int64_t held = device_memory_held();
    const auto begin = steady_clock::now();
    tell(out.drawn, outcomes_of_threads(d));
    out.took = steady_clock::now() - begin;
    out.memory_returned = device_memory_held() == held;
    tell(out.next, outcomes_of_threads(undisturbed(d)));
    return out;
  });
  const std::size_t ranks = d.spread.tokens.size();
  if (!told) return {std::vector<std::string>(ranks, kLost), {}, false, {}};
  return {{told->drawn, told->drawn + ranks},
          {told->next, told->next + ranks},
          told->memory_returned,
          told->took};
}

/// Kernel launches of each rank that is a thread: a process has some more.
const std::array<int, kMostRanks>& launches(const Spread& spread) {
  static std::map<std::tuple<int, Exchange, int, Transport, std::int64_t>, std::array<int, kMostRanks>> known;
  const auto [at, is_new] = known.try_emplace(
      {spread.ranks(), spread.exchange, spread.chunks, spread.transport, spread.max_token_rows});
  if (is_new) {
    const HostCase c = small_case(spread);
    at->second = in_child([&] {
                   std::array<int, kMostRanks> count{};
                   run_ranks(spread.ranks(), [&](const std::shared_ptr<Bootstrap>& world) {
                     int& mine = count[static_cast<std::size_t>(world->rank())];
                     run_rank(world, c, spread, [&mine] {
                       ++mine;
                       return cudaSuccess;
                     });
                   });
                   return count;
                 }).value();
  }
  return at->second;
}

Draw draw(std::uint64_t number, Ranks ranks, int devices) {
  std::mt19937_64 rng(number);
  const auto below = [&](std::uint64_t n) { return static_cast<int>(rng() % n); };
  Draw d{};
  d.ranks = ranks;
  d.spread.tokens = {11, 0, 19};
  if (number / 3 % 4 == 3) d.spread.tokens = {11, 0, 19, 4, 1, 0, 7, 2};  // every fourth of each of the three
  if (ranks == Ranks::over_nccl && devices < d.spread.ranks()) d.spread.tokens = {11, 19};
  d.spread.exchange = below(2) ? Exchange::all_gather : Exchange::all_to_all;
  d.spread.transport = ranks == Ranks::over_nccl ? Transport::nccl : Transport::automatic;
  d.spread.chunks = 1 + below(2);
  if (d.spread.chunks == 1 && d.spread.exchange == Exchange::all_to_all && below(2))
    d.spread = packed(d.spread);
  d.fault = ranks == Ranks::processes ? static_cast<Fault>(below(5)) : static_cast<Fault>(2 + below(3));
  d.victim = below(d.spread.tokens.size());
  d.step = below(static_cast<std::uint64_t>(launches(d.spread)[static_cast<std::size_t>(d.victim)]));
  return d;
}

int number_of(const char* variable, int otherwise) {
  const char* const value = std::getenv(variable);
  return value ? std::atoi(value) : otherwise;
}

class Faults : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ways, Faults, testing::Values(Ranks::threads, Ranks::processes, Ranks::over_nccl),
                         [](const auto& info) { return kRanksNames[static_cast<int>(info.param)]; });

// Of the draws each of the three has every third.
TEST_P(Faults, EverySurvivorComesToAnEnd) {
  struct Found {
    int devices;
    char missing[256];
  };
  const Found found = in_child([] {
                        Found out{device_count(), {}};
                        std::strncpy(out.missing, device_missing().c_str(), sizeof out.missing - 1);
                        return out;
                      }).value();
  MOEREF_SKIP(std::string(found.missing));
  if (GetParam() == Ranks::over_nccl && found.devices < 2)
    GTEST_SKIP() << "NCCL wants 2 CUDA devices, here is one: nothing was tested";
  const int first = number_of("MOEREF_FAULT_FIRST", 0),
            end_of_draws = first + number_of("MOEREF_FAULT_DRAWS", 12);
  for (int number = first; number < end_of_draws; ++number) {
    if (number % 3 != static_cast<int>(GetParam())) continue;
    const Draw d = draw(static_cast<std::uint64_t>(number), GetParam(), found.devices);
    SCOPED_TRACE(testing::Message() << "draw " << number << ": " << testing::PrintToString(d));
    const auto begin = steady_clock::now();
    const Ending end = d.ranks == Ranks::processes ? end_of_processes(d) : end_of_threads(d);
    std::printf("draw %d: %lld ms\n", number,
                static_cast<long long>(
                    std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin).count()));
    std::fflush(stdout);  // so that a run that is cut off says how far it came
    EXPECT_LT(end.took, 20 * timeout_of(d.spread));
    for (std::size_t r = 0; r < end.drawn.size(); ++r) {
      const std::string& how = end.drawn[r];
      if (d.fault == Fault::in_time)
        EXPECT_EQ(how, "") << "rank " << r;
      else if (static_cast<int>(r) == d.victim && (d.fault == Fault::killed || d.fault == Fault::stopped))
        EXPECT_EQ(how, kLost);
      else
        EXPECT_NE(how, kLost) << "rank " << r;
    }
    if (d.fault != Fault::in_time && d.fault != Fault::late) {
      EXPECT_TRUE(std::any_of(end.drawn.begin(), end.drawn.end(), [](const std::string& how) {
        return !how.empty() && how != kLost;
      })) << "no rank has an error";
    }
    EXPECT_TRUE(end.memory_returned);
    EXPECT_EQ(end.next, std::vector<std::string>(d.spread.tokens.size())) << "the next group";
    if (testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
