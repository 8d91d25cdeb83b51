// How a group comes to be and how it ends. Every step that may fail on one rank alone is agreed on by all, so
// that no rank waits for one that has left; a Group exists only after the last of them.
#include <algorithm>
#include <utility>

#include "cuda_impl/parallel/agreement.hpp"
#include "cuda_impl/parallel/capture.hpp"
#include "cuda_impl/parallel/group_state.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/group.hpp"

namespace moeref::cuda {

void Group::State::allocate() {
  for (cudaEvent_t& event : events)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaStreamCreateWithFlags(&control, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  int least_priority = 0, greatest_priority = 0;
  check(cudaDeviceGetStreamPriorityRange(&least_priority, &greatest_priority),
        "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&side, cudaStreamNonBlocking, greatest_priority),
        "cudaStreamCreateWithPriority");
  for (cudaEvent_t& event : marks)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaHostAlloc(reinterpret_cast<void**>(&failure), sizeof(int), cudaHostAllocMapped), "cudaHostAlloc");
  *failure = 0;
  check(cudaHostAlloc(reinterpret_cast<void**>(&host_counts), 2 * kMaxRanks * sizeof(int), 0),
        "cudaHostAlloc");
  check(cudaHostAlloc(reinterpret_cast<void**>(&room), sizeof(RoomReport), cudaHostAllocMapped),
        "cudaHostAlloc");
  *room = {};
  check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&room_on_device), room, 0),
        "cudaHostGetDevicePointer");
  void* words = nullptr;
  check(cudaMalloc(&words, 256), "cudaMalloc");
  allocated.push_back(words);
  check(cudaMemset(words, 0, 256), "cudaMemset");
  meeting.number = static_cast<unsigned long long*>(words);
  meeting.broken = reinterpret_cast<int*>(meeting.number + 1);
  check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&meeting.failure), failure, 0),
        "cudaHostGetDevicePointer");
  meeting.rank = rank(), meeting.size = size();
  meeting.limit_ns = static_cast<unsigned long long>(std::chrono::nanoseconds(options.timeout).count());
}

Group::State::~State() {
  close_handles();
  for (void* p : allocated) cudaFree(p);
  if (failure) cudaFreeHost(failure);
  if (host_counts) cudaFreeHost(host_counts);
  if (room) cudaFreeHost(room);
  if (control) cudaStreamDestroy(control);
  if (side) cudaStreamDestroy(side);
  for (const cudaEvent_t event : marks)
    if (event) cudaEventDestroy(event);
  for (const cudaEvent_t event : events)
    if (event) cudaEventDestroy(event);
}

void Group::State::close_handles() {
  for (void* p : std::exchange(opened, {})) cudaIpcCloseMemHandle(p);
}

Window Group::State::window(std::size_t bytes, Outbox outbox) {
  struct Wish {
    std::size_t bytes;
    Outbox outbox;
  };
  std::vector<std::unique_ptr<void, decltype(&cudaFree)>> memory;
  const auto allocate = [&] {
    const std::size_t size = std::max<std::size_t>(bytes, 256);
    void* taken = nullptr;
    check(cudaMalloc(&taken, size), "cudaMalloc of a window");
    memory.emplace_back(taken, &cudaFree);
    check(cudaMemset(taken, 0, size), "cudaMemset");
    return static_cast<char*>(taken);
  };
  Window out;
  const std::vector<Wish> wishes = agree(*bootstrap, options.name, [&] {
    out.memory_ = allocate();
    if (!all_reached() || outbox == Outbox::staged) out.staging_ = allocate();
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return Wish{bytes, outbox};
  });
  for (std::size_t p = 0; p < wishes.size(); ++p)
    if (wishes[p].bytes != wishes[0].bytes || wishes[p].outbox != wishes[0].outbox) {
      const auto wish = [&](std::size_t rank) {
        return "rank " + std::to_string(rank) + " wants " +
               (wishes[rank].outbox == Outbox::staged ? "staged slots and " : "") +
               std::to_string(wishes[rank].bytes) + " bytes";
      };
      throw ArgumentError("a window of the " + options.name + ": " + wish(0) + ", " + wish(p) +
                          ": want the same on all ranks");
    }
  out.rank_ = rank(), out.ranks_ = size(), out.bytes_ = bytes;
  PeerMemory peers = map_peers(*bootstrap, options.name, reach, out.memory_);
  out.peers_ = std::move(peers.of);
  opened.insert(opened.end(), peers.to_release.begin(), peers.to_release.end());
  for (auto& taken : memory) allocated.push_back(taken.release());
  return out;
}

std::shared_ptr<Group> Group::create(std::shared_ptr<Bootstrap> bootstrap, const GroupOptions& options) {
  const int size = bootstrap->size(), rank = bootstrap->rank();
  if (size > kMaxRanks)
    throw ArgumentError("the " + options.name + " has " + std::to_string(size) + " ranks: want " +
                        std::to_string(kMaxRanks) + " at most");
  auto state = std::make_unique<State>();
  State& s = *state;
  s.bootstrap = std::move(bootstrap);
  s.options = options;
  Peers peers = find_peers(*s.bootstrap, options.name);
  if (peers.placement == Placement::mixed && options.transport != Transport::nccl && !options.kernels_wait)
    throw ArgumentError("the " + options.name +
                        " has several ranks in one process and others elsewhere, whose kernels would wait "
                        "for each other: want "
                        "one rank in each process, or all ranks in one");
  s.reach = std::move(peers.reach);
  if (options.transport == Transport::nccl)
    for (int p = 0; p < size; ++p)
      if (p != rank) s.reach[static_cast<std::size_t>(p)] = Reach::none;
  s.threads = peers.placement == Placement::threads && !options.kernels_wait;
  const std::vector<bool> reaches_all = agree(*s.bootstrap, options.name, [&] {
    check(cudaGetDevice(&s.device), "cudaGetDevice");
    s.allocate();
    return s.all_reached();
  });
  if (std::find(reaches_all.begin(), reaches_all.end(), false) != reaches_all.end())
    s.nccl = NcclLink::create(*s.bootstrap, options.name);

  WindowLayout layout(size);
  s.flags = layout.add(sizeof(unsigned long long));
  s.sums = layout.add(kMaxSum * 8);
  s.own = s.window(layout.bytes(), Outbox::direct);
  for (int p = 0; p < size; ++p)
    if (p != rank && s.reaches(p))
      s.meeting.theirs[p] =
          reinterpret_cast<unsigned long long*>(s.own.peers_[static_cast<std::size_t>(p)] + s.flags.offset);
  s.meeting.mine = s.own.received<unsigned long long>(s.flags);
  const std::shared_ptr<Group> group(new Group(rank, size, std::move(state)));
  if (s.nccl) {
    // NCCL connects two ranks when they first exchange something: on the host, without an end to its
    // patience. So they do it here, where all have come, and not where one may have failed.
    const Delivery first[] = {{s.sums}};
    group->send(s.own, first, nullptr, s.control);
    group->wait_for(s.control);
  }
  return group;
}

Group::Group(int rank, int size, std::unique_ptr<State> state)
    : rank_(rank), size_(size), state_(std::move(state)) {}

Group::~Group() {
  State& s = *state_;
  if (std::uncaught_exceptions() > s.exceptions) abort((s.named(rank_) + " ends with an exception").c_str());
  int device = 0;
  cudaGetDevice(&device);
  cudaSetDevice(s.device);
  // The device is not waited for while NCCL may wait for ever in it.
  if (s.nccl && !s.aborted) {
    try {
      wait_until([&] { return s.passes.all_ended(); });
    } catch (const std::exception&) {  // a peer is lost, and NCCL ended
    }
  }
  if (s.aborted && s.nccl) s.nccl->abort();
  // Nothing of this rank's is under way, and no peer may still store into memory that is released here, or
  // have it open: of one that does not come it is not known, and the memory stays.
  cudaDeviceSynchronize();
  bool all_left = s.bootstrap->leave();
  s.close_handles();
  all_left = s.bootstrap->leave() && all_left;
  if (!all_left) {
    s.allocated.clear();
    if (s.nccl) s.nccl->abort();  // to take leave of the others NCCL waits for them
  }
  s.nccl.reset();
  state_.reset();
  cudaSetDevice(device);
}

Window Group::window(std::size_t bytes, Outbox outbox) { return state_->window(bytes, outbox); }

}  // namespace moeref::cuda
