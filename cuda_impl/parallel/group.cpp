#include "moeref/cuda/group.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <thread>
#include <utility>

#include "cuda_impl/parallel/barrier.hpp"
#include "cuda_impl/parallel/nccl_link.hpp"
#include "cuda_impl/parallel/peers.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

struct Group::State {
  std::shared_ptr<Bootstrap> bootstrap;
  GroupOptions options;
  int device = 0, exceptions = std::uncaught_exceptions();
  bool aborted = false;
  std::vector<Reach> reach;
  std::unique_ptr<NcclLink> nccl;  // where any rank needs it, as all of them know
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
  Window own;                  // flags and sums
  int* failure = nullptr;      // pinned, as the device sees it too
  int* host_counts = nullptr;  // pinned, [2 * kMaxRanks]

  bool all_reached() const {
    return std::none_of(reach.begin(), reach.end(), [](Reach r) { return r == Reach::none; });
  }
  bool meets_by_events(cudaStream_t stream) const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (threads) check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return threads && status == cudaStreamCaptureStatusNone;
  }
  /// An event is recorded again after the next meeting, to which a peer comes when it has queued this wait.
  void meet_by_events(cudaStream_t stream) {
    const cudaEvent_t mine = events[event_meetings++ % events.size()];
    check(cudaEventRecord(mine, stream), "cudaEventRecord");
    std::vector<cudaEvent_t> all(reach.size());
    bootstrap->all_gather(mine, all.data());
    for (const cudaEvent_t event : all) check(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
  }
  std::string named(int peer) const { return "rank " + std::to_string(peer) + " of the " + options.name; }
  ~State() {
    for (void* p : opened) cudaIpcCloseMemHandle(p);
    for (void* p : allocated) cudaFree(p);
    if (failure) cudaFreeHost(failure);
    if (host_counts) cudaFreeHost(host_counts);
    if (control) cudaStreamDestroy(control);
    if (side) cudaStreamDestroy(side);
    for (const cudaEvent_t event : marks)
      if (event) cudaEventDestroy(event);
    for (const cudaEvent_t event : events)
      if (event) cudaEventDestroy(event);
  }
};

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

Group::Group(int rank, int size, std::unique_ptr<State> state)
    : rank_(rank), size_(size), state_(std::move(state)) {}

std::shared_ptr<Group> Group::create(std::shared_ptr<Bootstrap> bootstrap, const GroupOptions& options) {
  const int size = bootstrap->size(), rank = bootstrap->rank();
  if (size > kMaxRanks)
    throw ArgumentError("the " + options.name + " has " + std::to_string(size) + " ranks: want " +
                        std::to_string(kMaxRanks) + " at most");
  auto state = std::make_unique<State>();
  State& s = *state;
  s.bootstrap = std::move(bootstrap);
  s.options = options;
  check(cudaGetDevice(&s.device), "cudaGetDevice");
  s.reach = reach_of_peers(*s.bootstrap);
  if (options.transport == Transport::nccl)
    for (int p = 0; p < size; ++p)
      if (p != rank) s.reach[static_cast<std::size_t>(p)] = Reach::none;
  std::vector<char> all_reached(static_cast<std::size_t>(size));
  s.bootstrap->all_gather(static_cast<char>(s.all_reached()), all_reached.data());
  if (std::count(all_reached.begin(), all_reached.end(), 0) > 0) s.nccl = NcclLink::create(*s.bootstrap);
  s.threads = all_are_threads(*s.bootstrap) && !options.kernels_wait;
  for (cudaEvent_t& event : s.events)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaStreamCreateWithFlags(&s.control, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  int least_priority = 0, greatest_priority = 0;
  check(cudaDeviceGetStreamPriorityRange(&least_priority, &greatest_priority),
        "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&s.side, cudaStreamNonBlocking, greatest_priority),
        "cudaStreamCreateWithPriority");
  for (cudaEvent_t& event : s.marks)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaHostAlloc(reinterpret_cast<void**>(&s.failure), sizeof(int), cudaHostAllocMapped),
        "cudaHostAlloc");
  *s.failure = 0;
  check(cudaHostAlloc(reinterpret_cast<void**>(&s.host_counts), 2 * kMaxRanks * sizeof(int), 0),
        "cudaHostAlloc");
  void* words = nullptr;
  check(cudaMalloc(&words, 256), "cudaMalloc");
  s.allocated.push_back(words);
  check(cudaMemset(words, 0, 256), "cudaMemset");

  std::shared_ptr<Group> group(new Group(rank, size, std::move(state)));
  WindowLayout layout(size);
  s.flags = layout.add(sizeof(unsigned long long));
  s.sums = layout.add(kMaxSum * 8);
  s.own = group->window(layout.bytes());
  s.meeting.rank = rank, s.meeting.size = size;
  for (int p = 0; p < size; ++p)
    if (p != rank && group->stores_to(p))
      s.meeting.theirs[p] =
          reinterpret_cast<unsigned long long*>(s.own.peers_[static_cast<std::size_t>(p)] + s.flags.offset);
  s.meeting.mine = s.own.received<unsigned long long>(s.flags);
  s.meeting.number = static_cast<unsigned long long*>(words);
  s.meeting.broken = reinterpret_cast<int*>(s.meeting.number + 1);
  check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&s.meeting.failure), s.failure, 0),
        "cudaHostGetDevicePointer");
  s.meeting.limit_ns = static_cast<unsigned long long>(std::chrono::nanoseconds(options.timeout).count());
  return group;
}

Group::~Group() {
  State& s = *state_;
  if (std::uncaught_exceptions() > s.exceptions) abort((s.named(rank_) + " ends with an exception").c_str());
  int device = 0;
  cudaGetDevice(&device);
  cudaSetDevice(s.device);
  // Nothing of this rank's is under way, and no peer may still store into memory that is released here: of
  // one that does not come it is not known, and the memory stays.
  cudaDeviceSynchronize();
  if (!s.bootstrap->leave()) s.allocated.clear();
  if (s.aborted && s.nccl) s.nccl->abort();
  s.nccl.reset();
  state_.reset();
  cudaSetDevice(device);
}

bool Group::stores_to(int peer) const { return state_->reach[static_cast<std::size_t>(peer)] != Reach::none; }
bool Group::needs_row_counts() const { return state_->nccl != nullptr; }

Window Group::window(std::size_t bytes, Outbox outbox) {
  State& s = *state_;
  const auto allocate = [&] {
    void* memory = nullptr;
    check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 256)), "cudaMalloc of a window");
    s.allocated.push_back(memory);
    check(cudaMemset(memory, 0, std::max<std::size_t>(bytes, 256)), "cudaMemset");
    return static_cast<char*>(memory);
  };
  Window out;
  out.rank_ = rank_, out.ranks_ = size_, out.bytes_ = bytes;
  out.memory_ = allocate();
  if (!s.all_reached() || outbox == Outbox::staged) out.staging_ = allocate();
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  PeerMemory peers = map_peers(*s.bootstrap, s.reach, out.memory_);
  out.peers_ = std::move(peers.of);
  s.opened.insert(s.opened.end(), peers.to_release.begin(), peers.to_release.end());
  return out;
}

namespace {

/// The bytes of a slot that a delivery moves.
struct Part {
  std::size_t at, bytes;
};
Part part_of(const Delivery& d, const std::vector<std::int64_t>* counts, int peer) {
  if (d.row_bytes == 0) return {0, d.region.slot_bytes};
  const std::int64_t there =
      counts ? std::clamp<std::int64_t>((*counts)[static_cast<std::size_t>(peer)] - d.first, 0, d.rows)
             : d.rows;
  return {static_cast<std::size_t>(d.first) * d.row_bytes, static_cast<std::size_t>(there) * d.row_bytes};
}

}  // namespace

void Group::send(const Window& window, std::span<const Delivery> what, const RowCounts* counts,
                 cudaStream_t stream) {
  State& s = *state_;
  throw_if_broken();
  for (const Delivery& d : what) {
    if (d.outbox == Outbox::direct) continue;
    if (!window.staging_) throw ArgumentError("a staged delivery of a window without staged slots");
    const RankPointers slots = window.slots(d.region, d.outbox);
    for (int i = 1; i < size_; ++i) {  // each rank begins with another peer
      const int p = (rank_ + i) % size_;
      if (!stores_to(p)) continue;
      const Part part = part_of(d, counts ? &counts->to : nullptr, p);
      char* const to = window.peers_[static_cast<std::size_t>(p)] + d.region.offset +
                       static_cast<std::size_t>(rank_) * d.region.slot_bytes;
      if (part.bytes > 0)
        check(cudaMemcpyAsync(to + part.at, static_cast<char*>(slots.of[p]) + part.at, part.bytes,
                              cudaMemcpyDeviceToDevice, stream),
              "cudaMemcpyAsync to a peer");
    }
  }
  if (s.all_reached()) return;
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
}

void Group::meet(cudaStream_t stream) {
  State& s = *state_;
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

std::optional<RowCounts> Group::row_counts(const Window& window, Region region, const int* sent,
                                           cudaStream_t stream) {
  State& s = *state_;
  if (!needs_row_counts()) return std::nullopt;
  const auto copy = [&](int* to, const int* from) {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(size_) * sizeof(int), cudaMemcpyDeviceToHost,
                          stream),
          "cudaMemcpyAsync");
  };
  copy(s.host_counts, sent);
  copy(s.host_counts + size_, window.received<int>(region));
  synchronize(stream);
  const int *to = s.host_counts, *from = to + size_, *end = from + size_;
  return RowCounts{{to, from}, {from, end}};
}

void Group::sum(std::int64_t* integers, int integer_count, double* reals, int real_count,
                cudaStream_t stream) {
  State& s = *state_;
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

void Group::synchronize(cudaStream_t stream) {
  State& s = *state_;
  const auto end = std::chrono::steady_clock::now() + s.options.timeout;
  for (;;) {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status == cudaSuccess) break;
    if (status != cudaErrorNotReady) check(status, "cudaStreamQuery");
    // Kernels that wait end by themselves; NCCL waits for ever.
    if (s.nccl && std::chrono::steady_clock::now() > end) {
      abort("NCCL did not come to an end");
      s.nccl->abort();
      throw GroupError("NCCL in the " + s.options.name + " did not come to an end within " +
                       std::to_string(s.options.timeout.count()) + " ms");
    }
    std::this_thread::yield();
  }
  throw_if_broken();
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
