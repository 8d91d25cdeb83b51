// TCP between the ranks of an emulated NCCL communicator that are processes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace emulated {

class Sockets {
 public:
  struct Address {
    std::uint32_t host;  // both in network byte order
    std::uint16_t port;
  };
  using Receive = std::function<void(int from, std::vector<char> message)>;

  /// Where this process will accept the ranks of a communicator whose rank 0 it is: on the first interface
  /// whose name begins as NCCL_SOCKET_IFNAME says, or without that on the loopback interface.
  static Address listen();
  /// Connects all ranks with each other. `receive` gets what they send, from threads of its own.
  Sockets(Address root, int size, int rank, Receive receive);
  Sockets(const Sockets&) = delete;
  ~Sockets();

  /// Whether it could be written.
  bool send(int to, const void* data, std::size_t bytes);

 private:
  std::vector<int> peers_;  // -1: this rank
  std::vector<std::thread> readers_;
};

}  // namespace emulated
