// What a Group has, from its first allocation on.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cuda_impl/parallel/barrier.hpp"
#include "cuda_impl/parallel/nccl_link.hpp"
#include "cuda_impl/parallel/nccl_passes.hpp"
#include "cuda_impl/parallel/peers.hpp"

namespace moeref::cuda {

struct Group::State {
  std::shared_ptr<Bootstrap> bootstrap;
  GroupOptions options;
  int device = 0, exceptions = std::uncaught_exceptions();
  bool aborted = false;
  std::vector<Reach> reach;
  std::unique_ptr<NcclLink> nccl;  // where any rank needs it, as all of them know
  NcclPasses passes;
  cudaStream_t control = nullptr;  // for an abort, while the caller's stream waits
  cudaStream_t side = nullptr;
  std::array<cudaEvent_t, kMarks> marks{};
  std::size_t marks_made = 0;
  bool threads = false;                 // all ranks are, and meet by events
  std::array<cudaEvent_t, 2> events{};  // one after the other
  std::uint64_t event_meetings = 0;
  std::vector<void*> allocated, opened;
  Meeting meeting{};
  Region flags, sums;
  Window own;                                             // flags and sums
  int* failure = nullptr;                                 // pinned, as the device sees it too
  int* host_counts = nullptr;                             // pinned, [2 * kMaxRanks]
  RoomReport *room = nullptr, *room_on_device = nullptr;  // pinned

  /// Of this rank alone, before the ranks meet.
  void allocate();
  /// Collective; see Group::window.
  Window window(std::size_t bytes, Outbox outbox);
  ~State();

  int rank() const { return bootstrap->rank(); }
  int size() const { return bootstrap->size(); }
  bool reaches(int peer) const { return reach[static_cast<std::size_t>(peer)] != Reach::none; }
  bool all_reached() const;
  std::string named(int peer) const { return "rank " + std::to_string(peer) + " of the " + options.name; }

  bool meets_by_events(cudaStream_t stream) const;
  /// An event is recorded again after the next meeting, to which a peer comes when it has queued this wait.
  void meet_by_events(cudaStream_t stream);
  void close_handles();
};

}  // namespace moeref::cuda
