#include "tools/port_host/port_host.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/port_host/device_staging.hpp"
#include "tools/port_host/exchange.hpp"
#include "tools/port_host/hosted_bench.hpp"
#include "tools/port_host/hosted_call.hpp"
#include "tools/port_host/loaded_port.hpp"

namespace moeref {
namespace {

using nlohmann::json;

void answer(const json& message) {
  const std::string line = message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t count = ::send(kHostSocket, left.data(), left.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(EXIT_FAILURE);
    left.remove_prefix(static_cast<std::size_t>(count));
  }
}

/// The next line; ends the process when there is none.
std::string next_line() {
  static std::string waiting;
  for (;;) {
    if (const std::size_t end = waiting.find('\n'); end != std::string::npos) {
      std::string line = waiting.substr(0, end);
      waiting.erase(0, end + 1);
      return line;
    }
    char buffer[1 << 16];
    const ssize_t count = ::recv(kHostSocket, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(EXIT_SUCCESS);
    waiting.append(buffer, static_cast<std::size_t>(count));
  }
}

/// A port that hangs must not outlive moeref.
void end_with_moeref() {
  std::thread([] {
    pollfd socket{kHostSocket, POLLRDHUP, 0};
    while (::poll(&socket, 1, -1) < 0 && errno == EINTR) continue;
    ::_exit(EXIT_FAILURE);
  }).detach();
}

/// The block shared with moeref, mapped for one call.
class SharedBlock {
 public:
  explicit SharedBlock(std::size_t size)
      : data_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, kHostMemory, 0)), size_(size) {
    if (data_ != MAP_FAILED) populate(data_, size);
  }
  ~SharedBlock() {
    if (data_ != MAP_FAILED) ::munmap(data_, size_);
  }
  SharedBlock(const SharedBlock&) = delete;
  SharedBlock& operator=(const SharedBlock&) = delete;

  std::byte* data() const { return data_ == MAP_FAILED ? nullptr : static_cast<std::byte*>(data_); }
  std::size_t size() const { return size_; }

 private:
  void* data_;
  std::size_t size_;
};

/// Of a process that makes calls together with others: the same one for all its calls.
Exchange& exchange_of(const json& request) {
  static Exchange the_one(request.at("rank").get<std::int32_t>(), [&] {
    std::vector<int> sockets;
    for (int r = 0; r < request.at("world_size").get<int>(); ++r) {
      sockets.push_back(r == request.at("rank").get<int>() ? -1 : kHostRanks + r);
      // What the port starts must not keep them open after this process has ended.
      ::fcntl(sockets.back(), F_SETFD, FD_CLOEXEC);
    }
    return sockets;
  }());
  return the_one;
}

json make(const HostedCall& call, const moeref_port& port, Exchange* exchange, const json& request) {
  if (!exchange) return call.make(port);
  exchange->begin(request.at("call").get<std::uint64_t>(),
                  std::chrono::milliseconds(request.at("exchange_limit").get<std::int64_t>()));
  json reply = call.make(port);
  exchange->end();
  if (!exchange->failure().empty()) reply["exchange"] = exchange->failure();
  return reply;
}

json run(const moeref_port& port, DeviceStaging& staging, const json& request) {
  const SharedBlock block(request.at("size").get<std::size_t>());
  if (!block.data())
    return {{"status", "broken"}, {"reason", "the port's process could not map the shared memory"}};
  Exchange* exchange = request.at("world_size").get<int>() > 1 ? &exchange_of(request) : nullptr;
  const HostedCall call(request, staging.place(block.data(), block.size()), staging.device(),
                        staging.stream(), exchange ? exchange->table() : nullptr);
  json reply = make(call, port, exchange, request);
  staging.bring_back(block.data(), block.size());
  return reply;
}

/// A process keeps its rank, and so its device, for life.
std::unique_ptr<DeviceStaging> staging_for(const moeref_port& port, const json& request, std::string& why) {
  const StagingRank rank{request.at("rank").get<int>(), request.at("world_size").get<int>(),
                         request.at("share_devices").get<bool>()};
  return make_staging(static_cast<DLDeviceType>(port.device), rank, why);
}

}  // namespace

int run_port_host(const std::string& library) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  end_with_moeref();
  const moeref_port* port = nullptr;
  try {
    port = load_port(library);
  } catch (const InputError& error) {
    answer({{"status", "bad"}, {"reason", error.what()}});
    ::_exit(EXIT_FAILURE);
  }
  answer({{"status", "ok"}, {"port", describe(*port)}});
  std::string no_device;
  std::unique_ptr<DeviceStaging> staging;
  for (;;) {
    const json request = json::parse(next_line());
    if (request.at("request") == "bench") {
      answer(hosted_bench(*port, request));
      continue;
    }
    if (!staging) staging = staging_for(*port, request, no_device);
    answer(staging ? run(*port, *staging, request)
                   : json{{"status", "not_supported"}, {"reason", no_device}});
  }
}

}  // namespace moeref
