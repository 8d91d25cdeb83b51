#include "emulated/block.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "cuda_impl/emulation/fiber.hpp"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace emulated {
namespace {

constexpr int kMostThreads = 1024;
constexpr std::size_t kMostShared = kEmulatedSharedBytes;
alignas(1024) thread_local char shared_memory_of_block[kMostShared];

enum class State : char { ready, in_warp, in_block, ended };

/// The threads of the block that this OS thread runs.
class Scheduler {
 public:
  bool run(const Block& block, const std::function<void()>& body, bool backwards, const char* kernel);
  void wait_for_block(int line);
  void wait_for_warp(const char* what);
  void pause() { leave(); }
  [[noreturn]] void fail(const char* message);

 private:
  struct Slot {
    std::unique_ptr<Fiber> fiber;
    Thread thread;
    State state;
  };
  Slot& slot(int i) { return slots_[static_cast<std::size_t>(i)]; }
  void thread_loop();
  void leave();  // the running thread waits or has ended: another one's turn
  void release_block();
  void release_warp(Warp& warp, int first);

  std::vector<Slot> slots_;
  std::vector<Warp> warps_;
  Place host_;
  const std::function<void()>* body_ = nullptr;
  const char* kernel_ = "";
  int count_ = 0, running_ = 0, step_ = 1, alive_ = 0, at_barrier_ = 0, line_ = 0;
  bool failed_ = false;
};

bool Scheduler::run(const Block& block, const std::function<void()>& body, bool backwards,
                    const char* kernel) {
  const dim3 d = block.block_dim;
  count_ = static_cast<int>(d.x * d.y * d.z);
  if (slots_.empty()) slots_.resize(kMostThreads);  // the slots stay where they are
  warps_.assign(static_cast<std::size_t>(count_ + 31) / 32, Warp{});
  for (int i = 0; i < count_; ++i) {
    Slot& s = slot(i);
    const auto n = static_cast<unsigned>(i);
    s.thread.index = {n % d.x, n / d.x % d.y, n / d.x / d.y};
    s.thread.lane = i % 32;
    s.thread.warp = &warps_[static_cast<std::size_t>(i / 32)];
    s.thread.block = &block;
    s.thread.uncommitted.clear(), s.thread.groups.clear();
    s.thread.warp->alive++;
    s.state = State::ready;
    if (!s.fiber) s.fiber = std::make_unique<Fiber>([this] { thread_loop(); });
  }
  body_ = &body, kernel_ = kernel, alive_ = count_, at_barrier_ = 0, failed_ = false;
  step_ = backwards ? count_ - 1 : 1;
  running_ = backwards ? count_ - 1 : 0;
  self = &slot(running_).thread;
  go_on(host_, *slot(running_).fiber);
  self = nullptr;
  if (failed_)  // they stand somewhere in the kernel: never to be used again
    for (Slot& s : slots_) s.fiber.reset();
  return !failed_;
}

void Scheduler::thread_loop() {
  for (;;) {
    (*body_)();
    const int ended = running_;
    Slot& s = slot(ended);
    s.state = State::ended;
    --alive_;
    Warp& warp = *s.thread.warp;
    if (--warp.alive > 0 && warp.arrived == warp.alive) release_warp(warp, ended / 32 * 32);
    if (alive_ > 0 && at_barrier_ == alive_) release_block();
    leave();
  }
}

void Scheduler::leave() {
  Fiber& from = *slot(running_).fiber;
  int next = running_;
  for (int i = 0; i < count_; ++i) {
    next += step_;
    if (next >= count_) next -= count_;
    if (slot(next).state != State::ready) continue;
    if (next == running_) return;
    running_ = next;
    self = &slot(next).thread;
    return go_on(from, *slot(next).fiber);
  }
  if (alive_ > 0) fail("its threads wait for each other and none can go on");
  go_on(from, host_);
}

void Scheduler::release_block() {
  at_barrier_ = 0;
  for (int i = 0; i < count_; ++i)
    if (slot(i).state == State::in_block) slot(i).state = State::ready;
}

void Scheduler::release_warp(Warp& warp, int first) {
  unsigned present = 0;
  for (int i = first; i < std::min(first + 32, count_); ++i) {
    if (slot(i).state != State::ended) present |= 1u << (i - first);
    if (slot(i).state == State::in_warp) slot(i).state = State::ready;
  }
  warp.present[warp.turn++ % 2] = present;
  warp.arrived = 0;
}

void Scheduler::wait_for_block(int line) {
  if (at_barrier_ > 0 && line != line_) fail("its threads wait at different barriers");
  line_ = line;
  slot(running_).state = State::in_block;
  if (++at_barrier_ == alive_) return release_block();
  leave();
}

void Scheduler::wait_for_warp(const char* what) {
  Slot& s = slot(running_);
  Warp& warp = *s.thread.warp;
  if (warp.arrived > 0 && std::strcmp(what, warp.what) != 0)
    fail("a warp's threads exchange different things");
  warp.what = what;
  s.state = State::in_warp;
  if (++warp.arrived == warp.alive) return release_warp(warp, running_ / 32 * 32);
  leave();
}

void Scheduler::fail(const char* message) {
  const uint3 b = self->block->index, t = self->index;
  std::fprintf(stderr, "emulated kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", kernel_, b.x, b.y,
               b.z, t.x, t.y, t.z, message);
  failed_ = true;
  go_on(*slot(running_).fiber, host_);
  __builtin_unreachable();
}

/// As many bytes as the launch asked for; the others are out of bounds.
void shared_memory(std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(shared_memory_of_block, bytes);
  __asan_poison_memory_region(shared_memory_of_block + bytes, kMostShared - bytes);
#endif
  std::memset(shared_memory_of_block, 0xff, bytes);
}

Scheduler& scheduler() {
  static thread_local Scheduler s;
  return s;
}

}  // namespace

void wait_for_block(int line) { scheduler().wait_for_block(line); }
void wait_for_warp(const char* what) { scheduler().wait_for_warp(what); }
void pause() { scheduler().pause(); }
void fail(const char* message) { scheduler().fail(message); }
void* dynamic_shared_bytes() { return shared_memory_of_block; }

bool run_grid(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
              const std::function<void()>& thread) {
  static thread_local bool backwards = false;
  backwards = !backwards;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t b = backwards ? blocks - 1 - i : i;
    const Block place{{static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                       static_cast<unsigned>(b / grid.x / grid.y)},
                      block,
                      grid};
    shared_memory(shared_bytes);
    if (!scheduler().run(place, thread, (i % 2 == 0) == backwards, kernel)) return false;
  }
  return true;
}

}  // namespace emulated
