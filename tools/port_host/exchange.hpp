// A rank's side of moeref_exchange: bytes between the processes of one call, over one socket a pair, and
// nothing that could wait for ever.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moeref/port.h"

namespace moeref {

class Exchange {
 public:
  /// sockets[r] leads to rank r: a stream, whose other end is an Exchange too. That of the own rank is not
  /// used. They stay the caller's to close.
  Exchange(std::int32_t rank, std::vector<int> sockets);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// A call of the port begins, the `call`-th of this group of processes; data that is not exchanged within
  /// `limit` from now on fails.
  void begin(std::uint64_t call, std::chrono::milliseconds limit);

  /// It has returned: ranks that still wait for this one need not.
  void end();

  /// What the port is given.
  const moeref_exchange* table() const { return &table_; }

  /// "all_to_all 2: rank 1 sends 8 bytes, this rank expects 16" for the first exchange that failed, after
  /// which nothing is exchanged any more; empty while all is well.
  const std::string& failure() const { return failure_; }

  /// What goes to one rank and what comes from it.
  struct Part {
    const std::byte* send = nullptr;
    std::byte* receive = nullptr;
    std::size_t send_bytes = 0, receive_bytes = 0;
  };

 private:
  enum class Kind : std::uint32_t { all_gather = 1, all_to_all, end };
  /// What comes before the bytes of every message. Both sides know both sizes, so that both notice when they
  /// disagree.
  struct Header {
    Kind kind;
    std::uint64_t call, number, bytes, expected;
  };
  struct Peer;

  static std::int32_t all_gather(void* context, const void* send, std::size_t bytes, void* receive);
  static std::int32_t all_to_all(void* context, const void* const* send, const std::size_t* send_bytes,
                                 void* const* receive, const std::size_t* receive_bytes);
  std::int32_t exchange(Kind kind, std::vector<Part> parts);
  void skip_earlier_ends();
  bool move(std::vector<Peer>& peers);
  void send_more(Peer& peer);
  bool receive_more(Peer& peer);
  bool accept(Peer& peer);
  bool fail(const std::string& why);
  std::int32_t milliseconds_left() const;

  std::int32_t rank_;
  std::vector<int> sockets_;
  moeref_exchange table_{};
  std::chrono::steady_clock::time_point deadline_;
  std::chrono::milliseconds limit_{0};
  std::uint64_t call_ = 0, number_ = 0;
  bool active_ = false;
  std::string failure_;
};

}  // namespace moeref
