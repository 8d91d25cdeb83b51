#include "cuda_impl/emulation/sockets.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace emulated {
namespace {

using Address = Sockets::Address;

struct Hello {
  int rank;
  Address address;
};

void want(bool worked, const char* what) {
  if (!worked) throw std::runtime_error(std::string("emulated NCCL: ") + what);
}

std::uint32_t own_host() {
  const char* const wanted = std::getenv("NCCL_SOCKET_IFNAME");
  const std::string name = wanted ? wanted : "lo";
  ifaddrs* all = nullptr;
  want(getifaddrs(&all) == 0, "no interfaces");
  std::uint32_t host = 0;
  for (const ifaddrs* i = all; i && host == 0; i = i->ifa_next)
    if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && std::string(i->ifa_name).rfind(name, 0) == 0)
      host = reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr;
  freeifaddrs(all);
  want(host != 0, ("no interface " + name).c_str());
  return host;
}

sockaddr_in socket_address(const Address& a) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_addr.s_addr = a.host, out.sin_port = a.port;
  return out;
}

std::pair<int, Address> listening() {
  Address address{own_host(), 0};
  sockaddr_in at = socket_address(address);
  socklen_t size = sizeof at;
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  want(listener >= 0 && ::bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0 &&
           ::listen(listener, 64) == 0 &&
           ::getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size) == 0,
       "cannot listen");
  address.port = at.sin_port;
  return {listener, address};
}

int connected(const Address& address) {
  const int one = 1, peer = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in at = socket_address(address);
  want(peer >= 0 && ::connect(peer, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0,
       "cannot connect");
  ::setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return peer;
}

bool write_all(int to, const void* data, std::size_t bytes) {
  const char* at = static_cast<const char*>(data);
  for (ssize_t n = 0; bytes > 0; at += n, bytes -= static_cast<std::size_t>(n))
    if ((n = ::send(to, at, bytes, MSG_NOSIGNAL)) <= 0) return false;
  return true;
}
bool read_all(int from, void* data, std::size_t bytes) {
  char* at = static_cast<char*>(data);
  for (ssize_t n = 0; bytes > 0; at += n, bytes -= static_cast<std::size_t>(n))
    if ((n = ::recv(from, at, bytes, 0)) <= 0) return false;
  return true;
}

std::pair<int, Hello> accepted(int listener) {
  const int peer = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  Hello hello{};
  want(peer >= 0 && read_all(peer, &hello, sizeof hello), "a rank went away");
  return {peer, hello};
}

std::mutex listeners_mutex;
std::map<std::uint16_t, int> listeners;  // of communicators to come, by port

}  // namespace

Address Sockets::listen() {
  const auto [listener, address] = listening();
  const std::lock_guard lock(listeners_mutex);
  listeners[address.port] = listener;
  return address;
}

// Every rank meets rank 0, which tells all where the others listen; then each connects to those before it.
Sockets::Sockets(Address root, int size, int rank, Receive receive)
    : peers_(static_cast<std::size_t>(size), -1) {
  std::vector<Address> all(peers_.size());
  const auto peer = [&](int r) -> int& { return peers_[static_cast<std::size_t>(r)]; };
  int listener = -1;
  if (rank == 0) {
    const std::lock_guard lock(listeners_mutex);
    listener = std::exchange(listeners[root.port], -1);
    for (int i = 1; i < size; ++i) {
      const auto [from, hello] = accepted(listener);
      peer(hello.rank) = from, all[static_cast<std::size_t>(hello.rank)] = hello.address;
    }
    for (int r = 1; r < size; ++r)
      want(write_all(peer(r), all.data(), all.size() * sizeof(Address)), "a rank went away");
  } else {
    const auto [own, address] = listening();
    listener = own;
    const Hello mine{rank, address};
    peer(0) = connected(root);
    want(
        write_all(peer(0), &mine, sizeof mine) && read_all(peer(0), all.data(), all.size() * sizeof(Address)),
        "rank 0 went away");
    for (int r = 1; r < rank; ++r) {
      peer(r) = connected(all[static_cast<std::size_t>(r)]);
      want(write_all(peer(r), &mine, sizeof mine), "a rank went away");
    }
    for (int i = rank + 1; i < size; ++i) {
      const auto [from, hello] = accepted(listener);
      peer(hello.rank) = from;
    }
  }
  ::close(listener);
  for (int r = 0; r < size; ++r)
    if (peer(r) >= 0)
      readers_.emplace_back([from = peer(r), r, receive] {
        for (std::uint64_t bytes = 0; read_all(from, &bytes, sizeof bytes);) {
          std::vector<char> message(bytes);
          if (!read_all(from, message.data(), message.size())) return;
          receive(r, std::move(message));
        }
      });
}

Sockets::~Sockets() {
  for (const int peer : peers_)
    if (peer >= 0) ::shutdown(peer, SHUT_RDWR);
  for (std::thread& reader : readers_) reader.join();
  for (const int peer : peers_)
    if (peer >= 0) ::close(peer);
}

bool Sockets::send(int to, const void* data, std::size_t bytes) {
  const std::uint64_t size = bytes;
  const int peer = peers_[static_cast<std::size_t>(to)];
  return write_all(peer, &size, sizeof size) && write_all(peer, data, bytes);
}

}  // namespace emulated
