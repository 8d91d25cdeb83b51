// A block of threads on the CPU: each thread is a fiber of the OS thread that launches.
//
// A thread runs until it waits for others; then the next one that can go on does. Threads go in ascending
// order in one block and in descending order in the next, blocks likewise from launch to launch: what depends
// on the order gives other bits then. A wait that cannot end (a barrier that some threads do not reach) fails
// the launch, where a device would hang or go on wrongly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <type_traits>
#include <vector>

#include "cuda_runtime_api.h"

namespace emulated {

struct Block {
  uint3 index{};
  dim3 block_dim, grid_dim;
};

constexpr std::size_t kExchangeBytes = 32;  // a thread's word in an exchange of its warp

struct Warp {
  int alive = 0, arrived = 0;
  unsigned turn = 0;           // of exchanges; two of them can be read at a time
  const char* what = nullptr;  // the exchange that its threads have come to
  unsigned present[2] = {};
  alignas(32) std::byte words[2][32 * kExchangeBytes];
};

/// A copy to shared memory that has not arrived; from null: zeros.
struct Copy {
  std::uint32_t to;
  const void* from;
};

struct Thread {
  uint3 index{};
  int lane = 0;
  Warp* warp = nullptr;
  const Block* block = nullptr;
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;
};
/// The thread that runs.
inline constinit thread_local Thread* self = nullptr;

/// All threads of the block that have not ended; `line` tells barriers apart.
void wait_for_block(int line);
/// All threads of the warp that have not ended; `what` tells exchanges apart.
void wait_for_warp(const char* what);
/// Lets the block's other threads run that can: threads that wait for another rank do not keep them waiting.
void pause();
/// Ends the launch with cudaErrorLaunchFailure and the message on stderr.
[[noreturn]] void fail(const char* message);
/// The block's dynamic shared memory, as many bytes as the launch asked for.
void* dynamic_shared_bytes();
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_shared_bytes());
}

/// What each thread of a warp brought, by lane, until the thread's second exchange after this one.
template <class T>
struct Exchange {
  const T* of;
  unsigned present;
};
template <class T>
Exchange<T> exchange(const char* what, unsigned mask, const T& mine) {
  static_assert(sizeof(T) <= kExchangeBytes && std::is_trivially_copyable_v<T>);
  if (mask != 0xffffffffu) fail("an exchange within a part of a warp: not emulated");
  Warp& warp = *self->warp;
  const unsigned turn = warp.turn % 2;
  std::memcpy(warp.words[turn] + self->lane * sizeof(T), &mine, sizeof(T));
  wait_for_warp(what);
  return {reinterpret_cast<const T*>(warp.words[turn]), warp.present[turn]};
}

/// kernel<<<grid, block, shared_bytes, stream>>>(...): at once, or into the graph that the stream captures.
class Launch {
 public:
  Launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes = 0,
         cudaStream_t stream = nullptr)
      : kernel_(kernel), grid_(grid), block_(block), shared_bytes_(shared_bytes), stream_(stream) {}
  void run(std::function<void()> thread) const;

 private:
  const char* kernel_;
  dim3 grid_, block_;
  std::size_t shared_bytes_;
  cudaStream_t stream_;
};

/// Runs all blocks now; whether no thread failed.
bool run_grid(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
              const std::function<void()>& thread);

}  // namespace emulated
