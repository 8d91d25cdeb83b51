#include "moeref/cuda/group.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <thread>
#include <utility>

#include "cuda_impl/parallel/capture.hpp"
#include "cuda_impl/parallel/copy_rows.hpp"
#include "cuda_impl/parallel/group_state.hpp"
#include "cuda_impl/parallel/rank_names.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

bool Group::State::all_reached() const {
  return std::none_of(reach.begin(), reach.end(), [](Reach r) { return r == Reach::none; });
}

bool Group::State::meets_by_events(cudaStream_t stream) const { return threads && !is_capturing(stream); }

void Group::State::meet_by_events(cudaStream_t stream) {
  const cudaEvent_t mine = events[event_meetings++ % events.size()];
  check(cudaEventRecord(mine, stream), "cudaEventRecord");
  std::vector<cudaEvent_t> all(reach.size());
  bootstrap->all_gather(mine, all.data());
  for (const cudaEvent_t event : all) check(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
}

RankPointers Window::slots(Region region, Outbox outbox) const {
  RankPointers out{};
  for (int p = 0; p < ranks_; ++p) {
    const bool reached =
        peers_[static_cast<std::size_t>(p)] != nullptr && (p == rank_ || outbox == Outbox::direct);
    char* base = reached ? peers_[static_cast<std::size_t>(p)] : staging_;
    out.of[p] = base + region.offset + static_cast<std::size_t>(reached ? rank_ : p) * region.slot_bytes;
  }
  return out;
}

bool Group::stores_to(int peer) const { return state_->reaches(peer); }
bool Group::needs_row_counts() const { return state_->nccl != nullptr; }

namespace {

/// The bytes of a slot that a delivery moves.
struct Part {
  std::size_t at, bytes;
};
Part part_of(const Delivery& d, const std::vector<std::int64_t>* counts, int peer) {
  if (d.row_bytes == 0) return {0, d.region.slot_bytes};
  if (d.region.packed && counts)
    return {
        static_cast<std::size_t>(std::accumulate(counts->begin(), counts->begin() + peer, std::int64_t{0})) *
            d.row_bytes,
        static_cast<std::size_t>((*counts)[static_cast<std::size_t>(peer)]) * d.row_bytes};
  const std::int64_t there =
      counts ? std::clamp<std::int64_t>((*counts)[static_cast<std::size_t>(peer)] - d.first, 0, d.rows)
             : d.rows;
  return {static_cast<std::size_t>(d.first) * d.row_bytes, static_cast<std::size_t>(there) * d.row_bytes};
}

}  // namespace

void Group::send(const Window& window, std::span<const Delivery> what, const RowCounts* counts,
                 cudaStream_t stream) {
  State& s = *state_;
  forget_earlier_errors();
  throw_if_broken();
  for (const Delivery& d : what) {
    if (d.outbox == Outbox::direct) continue;
    if (!window.staging_) throw ArgumentError("a staged delivery of a window without staged slots");
    const RankPointers slots = window.slots(d.region, d.outbox);
    if (d.region.packed && !(d.used && d.laid && d.home))
      throw ArgumentError("a staged delivery of packed rows without their places");
    const std::int64_t usual = d.region.packed ? 0 : std::clamp<std::int64_t>(d.usual - d.first, 0, d.rows);
    Delivery by_engines = d;
    if (d.used) by_engines.rows = usual;
    for (int i = 1; i < size_; ++i) {  // each rank begins with another peer
      const int p = (rank_ + i) % size_;
      if (!stores_to(p)) continue;
      const Part part = part_of(by_engines, counts ? &counts->to : nullptr, p);
      char* const to = window.peers_[static_cast<std::size_t>(p)] + d.region.offset +
                       static_cast<std::size_t>(rank_) * d.region.slot_bytes;
      if (part.bytes > 0)
        check(cudaMemcpyAsync(to + part.at, static_cast<char*>(slots.of[p]) + part.at, part.bytes,
                              cudaMemcpyDeviceToDevice, stream),
              "cudaMemcpyAsync to a peer");
    }
    if (!d.used) continue;
    // Last: these blocks may have to wait until a kernel beside them has ended, which the engines need not.
    RowCopies copies{slots,       window.slots(d.region), size_,         rank_, d.used, d.laid, d.home,
                     d.row_bytes, d.first + usual,        d.rows - usual};
    for (int p = 0; p < size_; ++p)
      if (!stores_to(p)) copies.to.of[p] = nullptr;
    copy_rows(copies, stream);
  }
  if (s.all_reached()) return;
  s.passes.begin(stream);
  s.nccl->begin();
  for (const Delivery& d : what) {
    if (d.row_bytes > 0 && !counts) throw ArgumentError("rows are delivered over NCCL without their counts");
    const RankPointers slots = window.slots(d.region, d.outbox);
    for (int p = 0; p < size_; ++p) {
      if (stores_to(p)) continue;
      const Part to = part_of(d, counts ? &counts->to : nullptr, p),
                 from = part_of(d, counts ? &counts->from : nullptr, p);
      s.nccl->send(static_cast<char*>(slots.of[p]) + to.at, to.bytes, p, stream);
      s.nccl->receive(window.received<char>(d.region, p) + from.at, from.bytes, p, stream);
    }
  }
  s.nccl->end();
  s.passes.end(stream);
}

void Group::meet(cudaStream_t stream) {
  State& s = *state_;
  forget_earlier_errors();
  throw_if_broken();
  bool met = false;
  for (int p = 0; p < size_; ++p) met = met || (p != rank_ && stores_to(p));
  if (met && s.meets_by_events(stream))
    s.meet_by_events(stream);
  else if (met)
    cuda::meet(s.meeting, stream);
}

cudaStream_t Group::side() const { return state_->side; }

cudaEvent_t Group::mark(cudaStream_t stream) {
  const cudaEvent_t event = state_->marks[state_->marks_made++ % kMarks];
  check(cudaEventRecord(event, stream), "cudaEventRecord");
  return event;
}
void Group::wait(cudaStream_t stream, cudaEvent_t mark) {
  check(cudaStreamWaitEvent(stream, mark, 0), "cudaStreamWaitEvent");
}

std::optional<RowCounts> Group::row_counts(const int* to, const int* from, cudaStream_t stream) {
  State& s = *state_;
  if (!needs_row_counts()) return std::nullopt;
  int *const host_to = s.host_counts, *const host_from = host_to + size_;
  const auto copy = [&](int* host, const int* device) {
    check(cudaMemcpyAsync(host, device, static_cast<std::size_t>(size_) * sizeof(int), cudaMemcpyDeviceToHost,
                          stream),
          "cudaMemcpyAsync");
  };
  copy(host_to, to);
  copy(host_from, from);
  wait_for(stream);
  return RowCounts{{host_to, host_from}, {host_from, host_from + size_}};
}

void Group::sum(std::int64_t* integers, int integer_count, double* reals, int real_count,
                cudaStream_t stream) {
  State& s = *state_;
  forget_earlier_errors();
  throw_if_broken();
  if (integer_count + real_count > kMaxSum)
    throw ArgumentError("a sum over the " + s.options.name + " has " +
                        std::to_string(integer_count + real_count) + " numbers: want " +
                        std::to_string(kMaxSum) + " at most");
  if (size_ == 1) return;
  const RankPointers slots = s.own.slots(s.sums);
  const char* received = s.own.received<char>(s.sums);
  if (s.all_reached() && !s.meets_by_events(stream)) {
    sum_in_peer_memory(s.meeting, slots, received, integers, integer_count, reals, real_count, stream);
    return;
  }
  const Delivery parts[] = {{s.sums}};
  deliver(s.own, {}, nullptr, stream);  // the peers have read what was there
  write_sum_parts(size_, slots, integers, integer_count, reals, real_count, stream);
  deliver(s.own, parts, nullptr, stream);
  add_sum_parts(size_, received, integers, integer_count, reals, real_count, stream);
}

void Group::check_room(const int* needed, RoomFor what, std::int64_t room, cudaStream_t stream) {
  cuda::check_room(needed, size_, what, room, state_->room_on_device, stream);
}

std::optional<RowOverflow> Group::overflow() {
  State& s = *state_;
  volatile RoomReport* const told = s.room;
  if (told->rank_and_one == 0) return std::nullopt;
  const int rank = told->rank_and_one - 1;
  const bool of_experts = told->what == RoomFor::expert_rows;
  RowOverflow out(
      s.named(rank) + " needs room for " + std::to_string(told->needed) +
          (of_experts ? " rows of its experts: max_rows is " : " rows of tokens: max_token_rows is ") +
          std::to_string(told->room),
      rank, told->needed, told->room);
  told->rank_and_one = 0;
  return out;
}

void Group::throw_if_broken() {
  State& s = *state_;
  const int failure = *static_cast<volatile int*>(s.failure);
  if (failure > 0)
    throw GroupError(s.named(failure - 1) + " did not come within " +
                     std::to_string(s.options.timeout.count()) + " ms");
  if (failure < 0) throw GroupError(s.named(-failure - 1) + " gave up");
  if (s.aborted) throw GroupError("this rank of the " + s.options.name + " has given up");
  if (s.nccl)
    if (const std::string why = s.nccl->failure(); !why.empty())
      throw GroupError("NCCL in the " + s.options.name + ": " + why);
}

// Kernels that wait end by themselves; NCCL waits for ever. Its time is that of one pass. A pass within a
// graph cannot be told from other work of the stream: for these it is the time of this call.
void Group::wait_until(const std::function<bool()>& done) {
  State& s = *state_;
  using clock = std::chrono::steady_clock;
  std::optional<std::uint64_t> pass;
  auto since = clock::now();
  for (; !done(); std::this_thread::yield()) {
    if (!s.nccl) continue;
    if (const auto now = s.passes.under_way(); now != pass) pass = now, since = clock::now();
    if ((!pass && !s.passes.any_captured()) || clock::now() - since <= s.options.timeout) continue;
    const std::string late = rank_names(size_, [&](int p) { return !s.reaches(p); }) + " of the " +
                             s.options.name + " did not come within " +
                             std::to_string(s.options.timeout.count()) + " ms over NCCL";
    abort(late.c_str());
    s.nccl->abort();
    throw GroupError(late);
  }
}

void Group::wait_for(cudaStream_t stream) {
  wait_until([&] {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status != cudaErrorNotReady) check(status, "cudaStreamQuery");
    return status == cudaSuccess;
  });
  throw_if_broken();
}

void Group::synchronize(cudaStream_t stream) {
  wait_for(stream);
  if (const auto too_much = overflow()) throw *too_much;
}

void Group::abort(const char* why) noexcept {
  State& s = *state_;
  if (std::exchange(s.aborted, true)) return;
  s.bootstrap->abort(why);
  if (!s.control || !s.meeting.mine) return;
  // The own words first, so that no later meeting of this rank overwrites what the peers are told.
  const int broken = 1;
  const std::vector<unsigned long long> flags(static_cast<std::size_t>(size_), kAborted);
  const auto store = [&](void* to, const void* from, std::size_t bytes) {
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, s.control);
  };
  store(s.meeting.broken, &broken, sizeof broken);
  for (int p = 0; p < size_; ++p)
    if (s.meeting.theirs[p]) store(s.meeting.theirs[p] + rank_, flags.data(), sizeof kAborted);
  store(s.meeting.mine, flags.data(), flags.size() * sizeof kAborted);
  cudaStreamSynchronize(s.control);
}

}  // namespace moeref::cuda
