// How the blocks of a persistent kernel get their work: by tickets, drawn from one counter of the launch.
//
// A block that starts late, because another kernel holds its multiprocessor, finds its share taken by the
// others and ends at once; a fixed share would keep the whole launch waiting for it. Which block takes a unit
// of work changes no result: a unit's sums are its own.
//
// The counter is 0 before a launch and after it. Each cluster draws in turn, one ahead, until it draws one
// that has no work, so that a launch draws `work + clusters` tickets: whoever draws the last sets the counter
// back to 0. Nothing runs between two launches, and the same memory serves every launch of a stream.
//
// Tickets reach the warps through a ring of two in each block's shared memory, by one thread per block, the
// keeper. It draws, waits at `empty` until every reader has read the slot's last ticket, stores the new one
// and arrives at `full`. In a cluster the keeper of the first block does so for both: it waits for the
// readers of both, and its stores complete the four bytes that each keeper expects at its own `full` for each
// phase. All readers see the same tickets, so that all leave their loops at the same one, the first without
// work.
//
// No roles wait for each other in a circle, as long as a role asks for the next ticket only when it needs no
// more of its unit's loads, and the drawing role hands it out when it has issued its own: to hand out ticket
// i + 1 it waits for those that have not read ticket i - 1, and these need loads of unit i - 2 alone, which
// were issued long before.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/ptx.cuh"

namespace moeref::cuda::sm90 {

/// Units of work 0 to `count` - 1 of a launch, in the order in which they are handed out.
struct Tickets {
  int* counter;
};

/// In shared memory, from `at`. Readers: warps or threads of a block that read every ticket.
template <int Cluster, int Readers>
struct TicketRing {
  static constexpr int cluster = Cluster, slots = 2, bytes = 24 * slots;
  static __device__ std::uint32_t full(std::uint32_t at, int slot) { return at + 8 * slot; }
  static __device__ std::uint32_t empty(std::uint32_t at, int slot) { return at + 8 * (slots + slot); }
  static __device__ std::uint32_t ticket(std::uint32_t at, int slot) { return at + 8 * (2 * slots + slot); }

  /// By one thread, before the block's barriers are published.
  static __device__ void initialise(std::uint32_t at) {
    for (int slot = 0; slot < slots; ++slot) {
      mbarrier_init(full(at, slot), 1);
      mbarrier_init(empty(at, slot), Readers * Cluster);
    }
  }
};

/// Where the ring's next ticket is. In one register, as consumers keep it beside their accumulators.
struct TicketPlace {
  int passed = 0;
  __device__ int slot() const { return passed % 2; }
  __device__ std::uint32_t phase() const { return passed / 2 % 2; }
};

/// A reader's place in the ring: of a thread, or of a warp whose lanes all call next().
template <class Ring, bool Warp>
class TicketReader {
 public:
  explicit __device__ TicketReader(std::uint32_t at) : at_(at) {}

  /// The next ticket; one that has no work is the last.
  __device__ __forceinline__ int next() {
    const int slot = place_.slot();
    mbarrier_wait(Ring::full(at_, slot), place_.phase());
    const bool reads = !Warp || threadIdx.x % 32 == 0;  // of a warp lane 0 alone
    int ticket = -1;
    if (reads) ticket = load_shared_word(Ring::ticket(at_, slot));
    // Not before the ticket is in its register, which the comparison awaits: an arrival at the other block
    // overtakes a load that is still queued behind those of an epilogue, and the slot was written anew before
    // it was read. One unit in some thousands was then worked on twice, and another not at all.
    if (ticket >= 0) {
      if constexpr (Ring::cluster == 2)
        mbarrier_arrive_at(Ring::empty(at_, slot), 0);
      else
        mbarrier_arrive(Ring::empty(at_, slot));
    }
    if constexpr (Warp) ticket = uniform(ticket);
    ++place_.passed;
    return ticket;
  }
  /// As of a keeper, which alone has something to do here.
  __device__ void draw() {}

 private:
  std::uint32_t at_;
  TicketPlace place_;
};

/// The reader that keeps the ring, one thread per block. Call draw() once in every unit, early enough for the
/// counter's answer to have come when next() is called.
template <class Ring>
class TicketKeeper {
 public:
  /// Of a block one `keeps`; others do nothing, and stand beside it where each lane of a warp has one.
  __device__ TicketKeeper(Tickets from, int count, int rank, std::uint32_t at, bool keeps = true)
      : counter_(from.counter),
        end_(count + int(gridDim.x) / Ring::cluster - 1),
        draws_(rank == 0),
        at_(at),
        reader_(at) {
    if (!keeps) return;
    for (int slot = 0; slot < Ring::slots; ++slot) expect(slot);
    draw();
  }

  __device__ __forceinline__ void draw() {
    if (draws_) drawn_ = atomicAdd(counter_, 1);
  }

  __device__ __forceinline__ int next() {
    const int slot = place_.slot();
    if (draws_) {
      if (drawn_ == end_) *counter_ = 0;
      mbarrier_wait(Ring::empty(at_, slot), place_.phase() ^ 1);  // the first pass finds the slots empty
      hand_out(slot);
    }
    const int ticket = reader_.next();
    expect(slot);  // of its next phase
    ++place_.passed;
    return ticket;
  }

 private:
  __device__ __forceinline__ void expect(int slot) {
    if constexpr (Ring::cluster == 2) mbarrier_arrive_expect(Ring::full(at_, slot), 4);
  }
  __device__ __forceinline__ void hand_out(int slot) {
    if constexpr (Ring::cluster == 2) {
      for (int rank = 0; rank < 2; ++rank)
        store_word_at(Ring::ticket(at_, slot), drawn_, Ring::full(at_, slot), rank);
    } else {  // such stores are illegal instructions in a launch without clusters
      store_shared_word(Ring::ticket(at_, slot), drawn_);
      mbarrier_arrive(Ring::full(at_, slot));
    }
  }

  int* counter_;
  int end_;  // the launch's last ticket
  bool draws_;
  int drawn_ = 0;
  std::uint32_t at_;
  TicketPlace place_;
  TicketReader<Ring, false> reader_;
};

}  // namespace moeref::cuda::sm90
