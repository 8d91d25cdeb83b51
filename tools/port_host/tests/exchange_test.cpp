// The exchange between the processes of one call, here between threads: what arrives, and that nothing waits
// for ever.
#include "tools/port_host/exchange.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <thread>

namespace moeref {
namespace {

using namespace std::chrono_literals;

/// Ranks that are connected with each other, each with its thread in together().
class ExchangeTest : public ::testing::Test {
 protected:
  void connect(std::size_t ranks) {
    sockets_.assign(ranks, std::vector<int>(ranks, -1));
    for (std::size_t a = 0; a < ranks; ++a)
      for (std::size_t b = a + 1; b < ranks; ++b) {
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        sockets_[a][b] = ends[0];
        sockets_[b][a] = ends[1];
      }
    for (std::size_t r = 0; r < ranks; ++r)
      ranks_.push_back(std::make_unique<Exchange>(static_cast<std::int32_t>(r), sockets_[r]));
  }
  void TearDown() override {
    for (std::size_t r = 0; r < sockets_.size(); ++r) close(r);
  }
  /// As the end of its process would.
  void close(std::size_t rank) {
    for (int& socket : sockets_[rank]) {
      if (socket >= 0) ::close(socket);
      socket = -1;
    }
  }

  using Work = std::function<std::int32_t(const moeref_exchange&)>;
  /// One call of all ranks, by number; what each returned.
  std::vector<std::int32_t> together(std::uint64_t call, const Work& work,
                                     std::chrono::milliseconds limit = 20s) {
    std::vector<std::int32_t> status(ranks_.size());
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      threads.emplace_back([&, r] {
        ranks_[r]->begin(call, limit);
        status[r] = work(*ranks_[r]->table());
        ranks_[r]->end();
      });
    for (std::thread& thread : threads) thread.join();
    return status;
  }
  const std::string& failure(std::size_t rank) const { return ranks_[rank]->failure(); }

  std::vector<std::vector<int>> sockets_;
  std::vector<std::unique_ptr<Exchange>> ranks_;
};

using Status = std::vector<std::int32_t>;
constexpr std::int32_t kOk = MOEREF_OK, kError = MOEREF_ERROR;

std::int32_t barrier(const moeref_exchange& e) { return e.all_gather(e.context, nullptr, 0, nullptr); }

TEST_F(ExchangeTest, AllGatherIsInTheOrderOfTheRanks) {
  connect(3);
  // More than a socket holds, so that both directions have to move at once.
  constexpr std::size_t kCount = 300'000;
  const Status status = together(1, [](const moeref_exchange& e) {
    const std::vector<std::int32_t> mine(kCount, e.rank + 10);
    std::vector<std::int32_t> all(3 * kCount);
    const std::int32_t done = e.all_gather(e.context, mine.data(), kCount * sizeof(std::int32_t), all.data());
    for (std::size_t i = 0; i < all.size(); ++i)
      if (all[i] != static_cast<std::int32_t>(i / kCount) + 10) return 100;
    return done;
  });
  EXPECT_EQ(status, (Status{kOk, kOk, kOk}));
}

TEST_F(ExchangeTest, AllToAllHasASizeForEachPair) {
  connect(4);
  // Rank a sends 50'000 a + 7 b elements to rank b; rank 0 sends itself nothing.
  const auto count = [](std::size_t a, std::size_t b) { return 50'000 * a + 7 * b; };
  const Status status = together(1, [&](const moeref_exchange& e) {
    const auto rank = static_cast<std::size_t>(e.rank);
    std::vector<std::vector<std::int32_t>> out(4), in(4);
    std::vector<const void*> send(4);
    std::vector<void*> receive(4);
    std::vector<std::size_t> send_bytes(4), receive_bytes(4);
    for (std::size_t r = 0; r < 4; ++r) {
      out[r].assign(count(rank, r), static_cast<std::int32_t>(100 * rank + r));
      in[r].resize(count(r, rank));
      send[r] = out[r].empty() ? nullptr : out[r].data();
      receive[r] = in[r].empty() ? nullptr : in[r].data();
      send_bytes[r] = out[r].size() * sizeof(std::int32_t);
      receive_bytes[r] = in[r].size() * sizeof(std::int32_t);
    }
    const std::int32_t done =
        e.all_to_all(e.context, send.data(), send_bytes.data(), receive.data(), receive_bytes.data());
    for (std::size_t r = 0; r < 4; ++r)
      if (in[r] != std::vector<std::int32_t>(count(r, rank), static_cast<std::int32_t>(100 * r + rank)))
        return 100;
    return done;
  });
  EXPECT_EQ(status, (Status{kOk, kOk, kOk, kOk}));
}

TEST_F(ExchangeTest, CallsFollowEachOther) {
  connect(3);
  for (std::uint64_t call = 1; call <= 50; ++call)
    ASSERT_EQ(together(call,
                       [&](const moeref_exchange& e) {
                         // Some calls of a port exchange nothing.
                         for (std::uint64_t i = 0; i < call % 3; ++i)
                           if (barrier(e) != MOEREF_OK) return kError;
                         return kOk;
                       }),
              (Status{kOk, kOk, kOk}))
        << call << failure(0) << failure(1) << failure(2);
}

/// A socket holds the messages of some hundred calls.
TEST_F(ExchangeTest, ThousandsOfCallsMayExchangeNothing) {
  connect(2);
  for (std::uint64_t call = 1; call <= 3000; ++call)
    ASSERT_EQ(together(
                  call, [](const moeref_exchange&) { return kOk; }, 1s),
              (Status{kOk, kOk}))
        << call;
  EXPECT_EQ(failure(0) + failure(1), "");
  EXPECT_EQ(together(3001, barrier), (Status{kOk, kOk})) << failure(0) << failure(1);
}

TEST_F(ExchangeTest, BothSidesOfADisagreementNotice) {
  connect(2);
  EXPECT_EQ(together(1,
                     [](const moeref_exchange& e) {
                       char mine[8] = {}, all[16] = {};
                       return e.all_gather(e.context, mine, static_cast<std::size_t>(4 + 4 * e.rank), all);
                     }),
            (Status{kError, kError}));
  EXPECT_EQ(failure(0), "all_gather 1: rank 1 sends 8 bytes, this rank expects 4");
  EXPECT_EQ(failure(1), "all_gather 1: rank 0 sends 4 bytes, this rank expects 8");
}

TEST_F(ExchangeTest, OneWrongDirectionFailsBoth) {
  connect(2);
  // Rank 0 expects 4 bytes more than rank 1 sends; what rank 1 expects is right.
  EXPECT_EQ(together(1,
                     [](const moeref_exchange& e) {
                       char out[8] = {}, in[16] = {};
                       const void* send[] = {out, out};
                       void* receive[] = {in, in + 8};
                       const std::size_t sends[] = {4, 4},
                                         receives[] = {4, static_cast<std::size_t>(e.rank == 0 ? 8 : 4)};
                       return e.all_to_all(e.context, send, sends, receive, receives);
                     }),
            (Status{kError, kError}));
  EXPECT_EQ(failure(0), "all_to_all 1: rank 1 sends 4 bytes, this rank expects 8");
  EXPECT_TRUE(failure(1).starts_with("all_to_all 1: rank 0 ")) << failure(1);
}

TEST_F(ExchangeTest, OtherFunctionsAreNoPartners) {
  connect(2);
  EXPECT_EQ(together(1,
                     [](const moeref_exchange& e) {
                       if (e.rank == 0) return barrier(e);
                       const void* send[2] = {};
                       void* receive[2] = {};
                       const std::size_t none[2] = {};
                       return e.all_to_all(e.context, send, none, receive, none);
                     }),
            (Status{kError, kError}));
  EXPECT_EQ(failure(0), "all_gather 1: rank 1 calls all_to_all");
}

/// And every later exchange fails too, at once.
TEST_F(ExchangeTest, WhoHasLeftIsNotWaitedFor) {
  connect(3);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(together(1,
                     [](const moeref_exchange& e) {
                       if (barrier(e) != MOEREF_OK || e.rank == 2) return kOk;
                       return barrier(e) == MOEREF_ERROR && barrier(e) == MOEREF_ERROR ? kError : kOk;
                     }),
            (Status{kError, kError, kOk}));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
  EXPECT_TRUE(failure(0).starts_with("all_gather 2: rank ")) << failure(0);
  EXPECT_TRUE(failure(1).starts_with("all_gather 2: rank ")) << failure(1);
}

TEST_F(ExchangeTest, TheDeadAreNotWaitedFor) {
  connect(3);
  const auto began = std::chrono::steady_clock::now();
  close(1);
  ranks_[1] = std::make_unique<Exchange>(1, std::vector<int>(3, -1));
  const Status status = together(1, [](const moeref_exchange& e) { return e.rank == 1 ? kOk : barrier(e); });
  EXPECT_EQ(status, (Status{kError, kOk, kError}));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
  EXPECT_TRUE(failure(0).starts_with("all_gather 1: rank ")) << failure(0);
}

TEST_F(ExchangeTest, WhoDoesNotComeIsWaitedForSoLong) {
  connect(2);
  const auto began = std::chrono::steady_clock::now();
  const Status status = together(
      1,
      [](const moeref_exchange& e) {
        if (e.rank == 0) return barrier(e);
        std::this_thread::sleep_for(1s);
        return kOk;
      },
      200ms);
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_EQ(status[0], kError);
  EXPECT_EQ(failure(0), "all_gather 1: rank 1 did not come within 0.2 s");
  EXPECT_LT(took, 5s);
}

TEST_F(ExchangeTest, NullsAndOwnSizesAreLookedAt) {
  connect(2);
  EXPECT_EQ(
      together(1, [](const moeref_exchange& e) { return e.all_gather(e.context, nullptr, 4, nullptr); }),
      (Status{kError, kError}));
  EXPECT_EQ(failure(0), "all_gather 1: what goes to rank 0 is NULL");
}

}  // namespace
}  // namespace moeref
