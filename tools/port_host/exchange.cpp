#include "tools/port_host/exchange.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

namespace moeref {
namespace {

using Clock = std::chrono::steady_clock;

/// Calls send or recv until it does not say that a signal came between.
template <typename Operation>
ssize_t uninterrupted(Operation&& operation) {
  ssize_t count = -1;
  do count = operation();
  while (count < 0 && errno == EINTR);
  return count;
}

bool would_wait(ssize_t count) { return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK); }

}  // namespace

/// One rank's part of an exchange, and how far it has come in either direction: the header first, then the
/// bytes.
struct Exchange::Peer {
  std::int32_t rank;
  int socket;
  Part part;
  Header mine, theirs{};
  std::size_t sent = 0, received = 0;
  bool gone = false;  ///< nothing can be sent to it any more

  bool all_sent() const { return gone || sent == sizeof mine + part.send_bytes; }
  bool all_received() const { return received == sizeof theirs + part.receive_bytes; }
};

Exchange::Exchange(std::int32_t rank, std::vector<int> sockets) : rank_(rank), sockets_(std::move(sockets)) {
  table_ = {sizeof(moeref_exchange),
            rank,
            static_cast<std::int32_t>(sockets_.size()),
            this,
            all_gather,
            all_to_all};
}

void Exchange::begin(std::uint64_t call, std::chrono::milliseconds limit) {
  call_ = call;
  number_ = 0;
  limit_ = limit;
  deadline_ = Clock::now() + limit;
  active_ = true;
  skip_earlier_ends();
}

/// Without this the messages of calls that exchange nothing would fill the sockets.
void Exchange::skip_earlier_ends() {
  if (!failure_.empty()) return;
  for (std::size_t r = 0; r < sockets_.size(); ++r) {
    if (static_cast<std::int32_t>(r) == rank_) continue;
    Header next{};
    const auto next_is = [&](int flags) {
      return uninterrupted([&] { return ::recv(sockets_[r], &next, sizeof next, flags | MSG_DONTWAIT); }) ==
             static_cast<ssize_t>(sizeof next);
    };
    while (next_is(MSG_PEEK) && next.kind == Kind::end && next.call < call_)
      if (!next_is(0)) return;
  }
}

void Exchange::end() {
  // The next call skips these messages.
  if (failure_.empty()) {
    std::vector<Peer> peers;
    for (std::size_t r = 0; r < sockets_.size(); ++r)
      if (static_cast<std::int32_t>(r) != rank_) {
        Peer& peer = peers.emplace_back(
            Peer{static_cast<std::int32_t>(r), sockets_[r], {}, {Kind::end, call_, 0, 0, 0}, {}});
        peer.received = sizeof peer.theirs;  // nothing is waited for
      }
    move(peers);
  }
  active_ = false;
}

std::int32_t Exchange::milliseconds_left() const {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
  return static_cast<std::int32_t>(
      std::clamp<std::int64_t>(left, 0, std::numeric_limits<std::int32_t>::max()));
}

/// The other ranks find their sockets closed, and need not wait either.
bool Exchange::fail(const std::string& why) {
  if (failure_.empty()) failure_ = why;
  for (std::size_t r = 0; r < sockets_.size(); ++r)
    if (static_cast<std::int32_t>(r) != rank_) ::shutdown(sockets_[r], SHUT_RDWR);
  return false;
}

void Exchange::send_more(Peer& peer) {
  while (!peer.all_sent()) {
    const bool header = peer.sent < sizeof peer.mine;
    const std::byte* from = header ? reinterpret_cast<const std::byte*>(&peer.mine) + peer.sent
                                   : peer.part.send + (peer.sent - sizeof peer.mine);
    const std::size_t size =
        (header ? sizeof peer.mine : sizeof peer.mine + peer.part.send_bytes) - peer.sent;
    const ssize_t count =
        uninterrupted([&] { return ::send(peer.socket, from, size, MSG_NOSIGNAL | MSG_DONTWAIT); });
    if (would_wait(count)) return;
    if (count < 0) {
      peer.gone = true;
      return;
    }
    peer.sent += static_cast<std::size_t>(count);
  }
}

/// A complete header has come from a peer.
bool Exchange::accept(Peer& peer) {
  const Header &mine = peer.mine, &theirs = peer.theirs;
  if (theirs.kind == Kind::end && theirs.call != mine.call) {
    peer.received = 0;  // of an earlier call
    return true;
  }
  const auto other = [&](const std::string& what) {
    return fail(fmt::format("rank {} {}", peer.rank, what));
  };
  if (theirs.kind == Kind::end) return other("has left its run()");
  if (theirs.call != mine.call || theirs.number != mine.number)
    return other(fmt::format("is at exchange {} of call {}, this rank at {} of {}", theirs.number,
                             theirs.call, mine.number, mine.call));
  if (theirs.kind != mine.kind)
    return other(theirs.kind == Kind::all_gather ? "calls all_gather" : "calls all_to_all");
  if (theirs.bytes != mine.expected)
    return other(fmt::format("sends {} bytes, this rank expects {}", theirs.bytes, mine.expected));
  if (theirs.expected != mine.bytes)
    return other(fmt::format("expects {} bytes, this rank sends {}", theirs.expected, mine.bytes));
  return true;
}

bool Exchange::receive_more(Peer& peer) {
  while (!peer.all_received()) {
    const bool header = peer.received < sizeof peer.theirs;
    std::byte* to = header ? reinterpret_cast<std::byte*>(&peer.theirs) + peer.received
                           : peer.part.receive + (peer.received - sizeof peer.theirs);
    const std::size_t size =
        (header ? sizeof peer.theirs : sizeof peer.theirs + peer.part.receive_bytes) - peer.received;
    const ssize_t count = uninterrupted([&] { return ::recv(peer.socket, to, size, MSG_DONTWAIT); });
    if (would_wait(count)) return true;
    if (count <= 0) return fail(fmt::format("rank {} has ended, or its own exchange failed", peer.rank));
    peer.received += static_cast<std::size_t>(count);
    if (header && peer.received == sizeof peer.theirs && !accept(peer)) return false;
  }
  return true;
}

/// Both directions of all peers as they come, so that no order of the ranks can block another.
bool Exchange::move(std::vector<Peer>& peers) {
  for (;;) {
    std::vector<pollfd> waiting;
    std::vector<Peer*> whose;
    for (Peer& peer : peers) {
      send_more(peer);
      // What it said before it went says more than that it went.
      if (!receive_more(peer)) return false;
      if (peer.gone && peer.mine.kind != Kind::end) return fail(fmt::format("rank {} has ended", peer.rank));
      const int wanted = (peer.all_sent() ? 0 : POLLOUT) | (peer.all_received() ? 0 : POLLIN);
      if (wanted == 0) continue;
      waiting.push_back({peer.socket, static_cast<short>(wanted), 0});
      whose.push_back(&peer);
    }
    if (waiting.empty()) return true;
    const int ready = ::poll(waiting.data(), waiting.size(), milliseconds_left());
    if (ready < 0 && errno != EINTR) return fail(std::string("poll: ") + std::strerror(errno));
    if (ready == 0)
      return fail(fmt::format("rank {} did not come within {:g} s", whose.front()->rank,
                              static_cast<double>(limit_.count()) / 1000.0));
  }
}

std::int32_t Exchange::exchange(Kind kind, std::vector<Part> parts) {
  if (!active_ || !failure_.empty()) return MOEREF_ERROR;
  ++number_;
  std::vector<Peer> peers;
  bool moved = true;
  for (std::size_t r = 0; r < parts.size() && moved; ++r) {
    const Part& part = parts[r];
    if (part.send_bytes > 0 && !part.send)
      moved = fail(fmt::format("what goes to rank {} is NULL", r));
    else if (part.receive_bytes > 0 && !part.receive)
      moved = fail(fmt::format("the place for what comes from rank {} is NULL", r));
    else if (static_cast<std::int32_t>(r) != rank_)
      peers.push_back({static_cast<std::int32_t>(r),
                       sockets_[r],
                       part,
                       {kind, call_, number_, part.send_bytes, part.receive_bytes},
                       {}});
    else if (part.send_bytes != part.receive_bytes)
      moved = fail(
          fmt::format("this rank sends itself {} bytes and expects {}", part.send_bytes, part.receive_bytes));
    else if (part.send_bytes > 0)
      std::memmove(part.receive, part.send, part.send_bytes);
  }
  moved = moved && move(peers);
  if (moved) return MOEREF_OK;
  failure_ =
      fmt::format("{} {}: {}", kind == Kind::all_gather ? "all_gather" : "all_to_all", number_, failure_);
  return MOEREF_ERROR;
}

std::int32_t Exchange::all_gather(void* context, const void* send, std::size_t bytes, void* receive) {
  auto& self = *static_cast<Exchange*>(context);
  std::vector<Part> parts(self.sockets_.size());
  auto* to = static_cast<std::byte*>(receive);
  for (std::size_t r = 0; r < parts.size(); ++r)
    parts[r] = {static_cast<const std::byte*>(send), to ? to + r * bytes : nullptr, bytes, bytes};
  return self.exchange(Kind::all_gather, std::move(parts));
}

std::int32_t Exchange::all_to_all(void* context, const void* const* send, const std::size_t* send_bytes,
                                  void* const* receive, const std::size_t* receive_bytes) {
  auto& self = *static_cast<Exchange*>(context);
  std::vector<Part> parts(self.sockets_.size());
  for (std::size_t r = 0; r < parts.size(); ++r)
    parts[r] = {static_cast<const std::byte*>(send[r]), static_cast<std::byte*>(receive[r]), send_bytes[r],
                receive_bytes[r]};
  return self.exchange(Kind::all_to_all, std::move(parts));
}

}  // namespace moeref
