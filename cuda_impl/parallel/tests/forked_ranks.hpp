// Ranks as processes that this one forks: with CUDA it may not have used a device itself, what it must know
// of one it asks a child. What they tell each other lies in memory that all of them share.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "moeref/cuda/bootstrap.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::test {

/// Zeros, in memory that processes forked from now on share.
template <class T>
class Shared {
 public:
  Shared() : memory_(mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    value_ = new (memory_) T{};
  }
  Shared(const Shared&) = delete;
  ~Shared() { munmap(memory_, sizeof(T)); }
  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  void* memory_;
  T* value_;
};

constexpr unsigned kLongest = 120;  // seconds: a child that has not ended by then never will

/// What body() gives in a process of its own; nothing where that did not come to its end.
template <class Body, class T = std::invoke_result_t<Body>>
std::optional<T> in_child(const Body& body) {
  static_assert(std::is_trivially_copyable_v<T>);
  struct Answer {
    T value;
    bool given;
  };
  const Shared<Answer> answer;
  const pid_t child = fork();
  if (child == 0) {
    alarm(kLongest);
    try {
      answer->value = body();
      answer->given = true;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "a child ended with: %s\n", e.what());
    }
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  return answer->given ? std::optional<T>(answer->value) : std::nullopt;
}

/// `free` is the test's.
struct Board {
  static constexpr int kMost = 8;
  static constexpr std::size_t kBytes = 1 << 16;
  std::atomic<int> arrived, round, broken, left[kMost], free[8];
  char slots[kMost][kBytes];
  char outcome[kMost][256];  // what each rank failed with
};

class ForkedBootstrap final : public Bootstrap {
 public:
  ForkedBootstrap(Board& board, int rank, int size, std::chrono::milliseconds patience)
      : board_(board), rank_(rank), size_(size), patience_(patience) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(const void* mine, std::size_t bytes, void* all) override {
    if (bytes > Board::kBytes) throw std::length_error("too much for the board");
    std::memcpy(board_.slots[rank_], mine, bytes);
    wait();
    for (int r = 0; r < size_; ++r)
      std::memcpy(static_cast<char*>(all) + static_cast<std::size_t>(r) * bytes, board_.slots[r], bytes);
    wait();
  }
  std::shared_ptr<Bootstrap> split(int, int) override { throw std::logic_error("not for this test"); }
  void abort(const char*) noexcept override { board_.broken = 1; }
  bool leave() noexcept override {
    const int times = ++board_.left[rank_];
    for (int r = 0; r < size_; ++r)
      if (!until([&] { return board_.left[r] >= times; })) return false;
    return true;
  }

 private:
  template <class Condition>
  bool until(Condition condition) const {
    const auto end = std::chrono::steady_clock::now() + patience_;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return true;
  }
  void wait() {
    const int round = board_.round;
    if (++board_.arrived == size_) {
      board_.arrived = 0;
      ++board_.round;
    } else if (!until([&] { return board_.round != round || board_.broken; }) || board_.round == round) {
      throw GroupError("the board is broken");
    }
  }
  Board& board_;
  int rank_, size_;
  std::chrono::milliseconds patience_;
};

/// For a rank: its test's assertions are the exceptions of its body.
inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

constexpr const char* kLost = "did not come to an end";  // the outcome of a rank that was killed

/// Runs body(rank, board) on `threads` ranks in each of `processes`; gives what each rank failed with, "" for
/// a good end. Ranks share devices where there are fewer. `before` runs in each process, and may move to
/// another one by a fork of its own. `patience`: how long a rank waits for others on the board, once all have
/// come there. Processes that stop are killed when the others have ended.
inline std::vector<std::string> run_forked(
    int processes, int threads, const std::function<void(const std::shared_ptr<Bootstrap>&, Board&)>& body,
    const std::function<void()>& before = [] {},
    std::chrono::milliseconds patience = std::chrono::seconds(10)) {
  const Shared<Board> shared;
  Board& board = *shared;
  const int size = processes * threads;
  for (int r = 0; r < size; ++r) std::strcpy(board.outcome[r], kLost);
  const auto run = [&](int rank) {
    std::string outcome;
    try {
      int devices = 0;
      check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
      check(cudaSetDevice(rank % devices), "cudaSetDevice");
      check(cudaFree(nullptr), "the device");
      ForkedBootstrap(board, rank, size, std::chrono::seconds(kLongest)).meet();
      body(std::make_shared<ForkedBootstrap>(board, rank, size, patience), board);
    } catch (const std::exception& e) {
      outcome = e.what();
    }
    std::strncpy(board.outcome[rank], outcome.c_str(), sizeof board.outcome[rank] - 1);
  };
  std::vector<pid_t> children;
  for (int p = 0; p < processes; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(kLongest);
      before();
      std::vector<std::thread> others;
      for (int t = 1; t < threads; ++t) others.emplace_back(run, p * threads + t);
      run(p * threads);
      for (std::thread& t : others) t.join();
      _exit(0);
    }
    children.push_back(child);
  }
  std::vector<pid_t> stopped;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    if (WIFSTOPPED(status)) stopped.push_back(child);
  }
  for (const pid_t child : stopped) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  std::vector<std::string> out;
  for (int r = 0; r < size; ++r) out.emplace_back(board.outcome[r]);
  return out;
}

}  // namespace moeref::cuda::test
