// A group of ranks, one device each, that write into each other's memory: what expert, data and context
// parallelism are made of.
//
// A Window is memory of one size on every rank. A region of it has one slot a rank: a kernel of rank r writes
// what rank p shall get into `slot(region, p)`, and after `deliver` rank p finds it in `received(region, r)`.
// Where the devices can, a slot lies in p's own memory (same process: peer access; other process of the same
// host: CUDA IPC; never NVLink multicast) and deliver is a barrier; elsewhere it lies here and deliver sends
// it over NCCL. A staged slot lies here in any case, and the copy engines bring it to p, which leaves the
// multiprocessors to other kernels; or a few blocks bring those of its rows that there are. All is queued on
// the caller's stream, and every rank queues the same calls in the same order, on one stream or on several
// that wait for each other.
//
// Between processes the barrier is a kernel that waits for the peers' kernels. Ranks that are threads of one
// process meet on the host while they queue, and their streams wait for each other's events. They have to: in
// one process a launch may hold a lock until its device is idle (to load a kernel, to enlarge local memory,
// for room in a queue) which another rank needs to queue its copy to a peer, so that kernels which wait for
// that rank would wait for ever; and two of them may share a device, on which CUDA does not promise that
// kernels run at the same time. Events do not reach from one graph into another, so that deliveries under
// capture are kernels everywhere.
//
// Between two deliveries of one group a rank may write slots of a region only if the peers' last reads of
// that region were queued before their own call of the first of the two.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moeref/cuda/bootstrap.hpp"

namespace moeref::cuda {

constexpr int kMaxRanks = 64;  // of a group

/// How slots that are not this rank's own are reached.
enum class Transport {
  automatic,  // peer memory where both devices allow it, NCCL elsewhere
  nccl        // NCCL for all
};

struct GroupOptions {
  Transport transport = Transport::automatic;
  // For a peer that does not come, which may be writing a checkpoint; threads wait on the host, for as long
  // as run_ranks was told.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  std::string name = "group";  // in messages
  // Also for ranks of one process, and for several of them in each of many. Loading a kernel may wait for
  // those that run: where ranks of a process share a device, set CUDA_MODULE_LOADING=EAGER.
  bool kernels_wait = false;
};

/// Where the slots of one kind lie in a window, the same on all ranks; or, packed, rows of all ranks one
/// after another without slots.
struct Region {
  std::size_t offset = 0, slot_bytes = 0;
  bool packed = false;
};

/// Regions one after another.
class WindowLayout {
 public:
  explicit WindowLayout(int ranks) : ranks_(static_cast<std::size_t>(ranks)) {}
  Region add(std::size_t slot_bytes) {
    const Region region{bytes_, slot_bytes};
    bytes_ += (slot_bytes * ranks_ + 255) / 256 * 256;
    return region;
  }
  Region add_packed(std::size_t bytes) {
    const Region region{bytes_, 0, true};
    bytes_ += (bytes + 255) / 256 * 256;
    return region;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t ranks_, bytes_ = 0;
};

/// One pointer a rank, to be given to kernels.
struct RankPointers {
  void* of[kMaxRanks];
};

class Group;

/// How a slot gets to its rank.
enum class Outbox {
  direct,  // kernels store it there
  staged   // kernels store it here, deliver copies it
};

/// Made by Group::window; its memory is released when all ranks have released theirs, with the group.
class Window {
 public:
  /// Device pointers to this rank's outgoing slots, [size] of them. Its own lies where it is received.
  RankPointers slots(Region region, Outbox outbox = Outbox::direct) const;
  /// To what rank `source` sent; the slots of all ranks follow each other without gaps, in their order.
  template <class T>
  T* received(Region region, int source = 0) const {
    return reinterpret_cast<T*>(memory_ + region.offset +
                                static_cast<std::size_t>(source) * region.slot_bytes);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  friend class Group;
  int rank_ = 0, ranks_ = 1;
  std::size_t bytes_ = 0;
  char* memory_ = nullptr;
  char* staging_ = nullptr;   // staged slots and those for peers out of reach; null where there are none
  std::vector<char*> peers_;  // of each rank's memory, null where out of reach
};

/// Rows on their way, for transports that must know them on the host.
struct RowCounts {
  std::vector<std::int64_t> to, from;  // [size]
};

/// One region to be delivered: whole slots, or with row_bytes `rows` rows of each from `first` on, as far as
/// RowCounts, where they are known, say that there are any. Of staged rows all are copied or, with `used`
/// [size] on the device, used[p] of those for rank p, the same numbers: by the copy engines the first `usual`
/// of each slot, there or not, and by a few blocks what lies behind them. Of packed rows, blocks copy all and
/// `laid` and `home` [size], on the device, say at which row those for rank p begin here and there;
/// staged ones need all three. Over NCCL they lie in the order of the ranks.
struct Delivery {
  Region region;
  std::size_t row_bytes = 0;
  std::int64_t first = 0, rows = 0;
  Outbox outbox = Outbox::direct;
  const int *used = nullptr, *laid = nullptr, *home = nullptr;
  std::int64_t usual = 0;
};

/// What there may be too little room for: ExpertParallelConfig::max_rows or max_token_rows.
enum class RoomFor { expert_rows, token_rows };
/// A rank got more rows than it has room for. All ranks get it and may go on with the group, with less or
/// with more room.
class RowOverflow : public GroupError {
 public:
  RowOverflow(const std::string& what, int rank, std::int64_t needed, std::int64_t room)
      : GroupError(what), rank(rank), needed(needed), room(room) {}
  int rank;
  std::int64_t needed, room;  // in rows
};

class Group {
 public:
  /// All ranks of `bootstrap`, each on its current device: all in one process or each in its own. Collective,
  /// and so is its failure: the rank that failed throws its own error (CudaError, ArgumentError), the others
  /// a GroupError that names it. GroupError, too, when a rank is out of reach and moeref was built without
  /// NCCL.
  static std::shared_ptr<Group> create(std::shared_ptr<Bootstrap> bootstrap,
                                       const GroupOptions& options = {});
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool stores_to(int peer) const;
  /// Whether deliveries of rows need RowCounts, which costs one wait for the stream: with NCCL.
  bool needs_row_counts() const;

  /// Collective, waits for all ranks, and fails on all as `create` does. Zeros. The memory of the caller's
  /// device, released with the group; twice as much for a window with staged slots. Throws ArgumentError
  /// where the ranks do not ask for the same.
  Window window(std::size_t bytes, Outbox outbox = Outbox::direct);

  /// See above. `counts` for deliveries of rows, if needs_row_counts(). Kernels before it on the stream have
  /// written the slots; kernels after it read what was received.
  void deliver(const Window& window, std::span<const Delivery> what, const RowCounts* counts,
               cudaStream_t stream) {
    send(window, what, counts, stream);
    meet(stream);
  }
  /// Its halves: after the next meet() on the stream everything sent before it has been received.
  void send(const Window& window, std::span<const Delivery> what, const RowCounts* counts,
            cudaStream_t stream);
  void meet(cudaStream_t stream);

  /// A stream of this rank for what goes on beside the caller's kernels, and before them where both could. It
  /// takes part in a capture of the caller's stream, as any stream that waits for one that is captured.
  cudaStream_t side() const;
  /// A point in what is queued on a stream, to be waited for; for as long as kMarks others have not been
  /// made.
  static constexpr int kMarks = 64;
  cudaEvent_t mark(cudaStream_t stream);
  /// What is queued on `stream` from now on waits for that point.
  void wait(cudaStream_t stream, cudaEvent_t mark);

  /// The numbers of rows [size] to and from each rank, which are on the device, on the host. Nothing, without
  /// waiting, where no transport needs them.
  std::optional<RowCounts> row_counts(const int* to, const int* from, cudaStream_t stream);

  /// Sums over the ranks, in place and in the order of the ranks, the same bits on all of them. Up to
  /// kMaxSum numbers in all; either may be null.
  static constexpr int kMaxSum = 4096;
  void sum(std::int64_t* integers, int integer_count, double* reals, int real_count, cudaStream_t stream);

  /// Throws GroupError if a peer did not come in time in anything that ran so far; results since then mean
  /// nothing, and the group is of no more use. Does not wait.
  void throw_if_broken();
  /// Queues a look at needed [size], each rank's rows: what does not fit is found by overflow().
  void check_room(const int* needed, RoomFor what, std::int64_t room, cudaStream_t stream);
  /// The last overflow that any look has found so far, once; after a graph the caller asks when its stream
  /// has ended. synchronize() throws it.
  std::optional<RowOverflow> overflow();

  /// Waits for the stream, no longer than the timeout after a peer has ended, and checks. Work of the stream
  /// before a delivery does not count, but for NCCL's deliveries within graphs: there the timeout is that of
  /// this call.
  void synchronize(cudaStream_t stream);
  /// This rank goes on no more: peers that wait for it, on the device or on the host, get a GroupError.
  void abort(const char* why) noexcept;

 private:
  struct State;
  Group(int rank, int size, std::unique_ptr<State> state);
  void wait_until(const std::function<bool()>& done);
  void wait_for(cudaStream_t stream);
  int rank_, size_;
  std::unique_ptr<State> state_;
};

}  // namespace moeref::cuda
