// NCCL within a process; with MOEREF_EMULATED_NCCL=sockets between processes, over TCP.
#include "nccl.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "cuda_impl/emulation/runtime.hpp"
#include "cuda_impl/emulation/sockets.hpp"
#include "emulated/faults.hpp"

namespace {

constexpr auto kPatience = std::chrono::seconds(20);  // a device would wait for ever

/// What the ranks of one communicator share: messages under way, by (from, to).
struct Exchange {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::pair<int, int>, std::deque<std::vector<char>>> boxes;
  std::set<std::pair<int, int>> met;  // (who, whom)
  bool aborted = false;
};

std::mutex all_mutex;
std::map<int, std::weak_ptr<Exchange>> all_exchanges;

struct Transfer {
  ncclComm* comm;
  const void* from;
  void* to;
  std::size_t bytes;
  int peer;
};
thread_local std::vector<Transfer> grouped;
thread_local cudaStream_t grouped_stream = nullptr;
thread_local std::chrono::milliseconds pass_time{0};

}  // namespace

struct ncclComm {
  std::shared_ptr<Exchange> exchange;
  int rank, size;
  std::unique_ptr<emulated::Sockets> sockets;  // where the others are processes
};

namespace {

bool between_processes() {
  const char* const how = std::getenv("MOEREF_EMULATED_NCCL");
  return how && std::strcmp(how, "sockets") == 0;
}

void put(Exchange& e, int from, int to, std::vector<char> message) {
  const std::lock_guard lock(e.mutex);
  e.boxes[{from, to}].push_back(std::move(message));
  e.changed.notify_all();
}

bool send(const Transfer& t) {
  const char* data = static_cast<const char*>(t.from);
  if (t.comm->sockets && t.peer != t.comm->rank) return t.comm->sockets->send(t.peer, data, t.bytes);
  put(*t.comm->exchange, t.comm->rank, t.peer, {data, data + t.bytes});
  return true;
}

bool receive(const Transfer& t) {
  Exchange& e = *t.comm->exchange;
  std::unique_lock lock(e.mutex);
  auto& box = e.boxes[{t.peer, t.comm->rank}];
  if (!e.changed.wait_for(lock, kPatience, [&] { return e.aborted || !box.empty(); }) || e.aborted)
    return false;
  const std::vector<char> message = std::move(box.front());
  box.pop_front();
  if (message.size() != t.bytes) {
    std::fprintf(stderr, "emulated NCCL: rank %d receives %zu bytes from rank %d, which sent %zu\n",
                 t.comm->rank, t.bytes, t.peer, message.size());
    return false;
  }
  if (!message.empty()) std::memcpy(t.to, message.data(), message.size());
  return true;
}

/// Ranks connect when they first exchange something: each waits for the other, on the host, and does not
/// see that it has given up.
bool connect(const std::vector<Transfer>& transfers) {
  for (const Transfer& t : transfers) {
    Exchange& e = *t.comm->exchange;
    const std::lock_guard lock(e.mutex);
    e.met.insert({t.comm->rank, t.peer});
    e.changed.notify_all();
  }
  return std::all_of(transfers.begin(), transfers.end(), [](const Transfer& t) {
    Exchange& e = *t.comm->exchange;
    std::unique_lock lock(e.mutex);
    return t.comm->sockets || e.changed.wait_for(lock, kPatience, [&] {
      return e.met.contains({t.peer, t.comm->rank});
    });
  });
}

ncclResult_t add(const Transfer& t, cudaStream_t stream) {
  if (!t.comm || t.peer < 0 || t.peer >= t.comm->size) return ncclInvalidArgument;
  if (!grouped.empty() && grouped_stream != stream) return ncclInvalidArgument;
  grouped.push_back(t);
  grouped_stream = stream;
  return ncclSuccess;
}

}  // namespace

void emulated::slow_nccl(std::chrono::milliseconds time) { pass_time = time; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  if (between_processes()) try {
      const emulated::Sockets::Address address = emulated::Sockets::listen();
      std::memcpy(id->internal, &address, sizeof address);
      return ncclSuccess;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return ncclInternalError;
    }
  static int count = 0;
  const std::lock_guard lock(all_mutex);
  ++count;
  std::memcpy(id->internal, &count, sizeof count);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  if (size < 1 || rank < 0 || rank >= size) return ncclInvalidArgument;
  if (emulated::intercepted("ncclCommInitRank") != cudaSuccess) return ncclInternalError;
  if (between_processes()) try {
      emulated::Sockets::Address root{};
      std::memcpy(&root, id.internal, sizeof root);
      const auto exchange = std::make_shared<Exchange>();
      *comm = new ncclComm{exchange, rank, size,
                           std::make_unique<emulated::Sockets>(
                               root, size, rank, [exchange, rank](int from, std::vector<char> message) {
                                 put(*exchange, from, rank, std::move(message));
                               })};
      return ncclSuccess;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return ncclInternalError;
    }
  int key = 0;
  std::memcpy(&key, id.internal, sizeof key);
  const std::lock_guard lock(all_mutex);
  std::shared_ptr<Exchange> exchange = all_exchanges[key].lock();
  if (!exchange) all_exchanges[key] = exchange = std::make_shared<Exchange>();
  *comm = new ncclComm{exchange, rank, size, nullptr};
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const std::lock_guard lock(comm->exchange->mutex);
    comm->exchange->aborted = true;
    comm->exchange->changed.notify_all();
  }
  return ncclCommDestroy(comm);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const std::lock_guard lock(comm->exchange->mutex);
  *error = comm->exchange->aborted ? ncclInternalError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() { return ncclSuccess; }
ncclResult_t ncclGroupEnd() {
  if (grouped.empty()) return ncclSuccess;
  if (!connect(grouped)) return ncclInternalError;
  emulated::enqueue(grouped_stream, [transfers = std::exchange(grouped, {})] {
    for (const Transfer& t : transfers)
      if (!t.to && !send(t)) return false;
    for (const Transfer& t : transfers)
      if (t.to && !receive(t)) return false;
    return true;
  });
  if (pass_time.count() > 0) emulated::occupy(grouped_stream, pass_time);
  return ncclSuccess;
}
ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({comm, data, nullptr, count, peer}, stream);
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({comm, nullptr, data, count, peer}, stream);
}
const char* ncclGetErrorString(ncclResult_t error) {
  return error == ncclSuccess ? "no error" : "the communicator was aborted or misused";
}
