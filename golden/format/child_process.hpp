// Work that may crash, done in a child process: HDF5 1.10 trusts much of what it reads, and a damaged file
// makes it crash, hang, or go on with damaged memory; after a full disk it crashes at exit. What comes back
// is plain data through a pipe.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace moeref {

/// The child's end, over a pipe or a socket. The parent must take what is put here in the same order.
class Sender {
 public:
  explicit Sender(int pipe) : pipe_(pipe) {}

  /// Begins one more item of what Receiver::next() counts.
  void item() { number(kItem); }
  void number(std::int64_t value) { put(&value, sizeof value); }
  void text(const std::string& text);
  void bytes(std::span<const std::byte> data) { put(data.data(), data.size()); }

 private:
  friend class Receiver;
  friend bool send_answer(Sender&, const std::function<void()>&);
  enum Mark : std::int64_t { kEnd = 0x656e64, kItem, kError };

  void put(const void* data, std::size_t size);
  void flush();

  int pipe_;
  std::string buffer_;
};

/// The parent's end. Throws InputError, with the text for a crash when the child is gone or sends nonsense.
class Receiver {
 public:
  Receiver(int pipe, std::string crashed) : pipe_(pipe), crashed_(std::move(crashed)) {}

  /// True before an item, false after the last. Throws the InputError that the child threw.
  bool next();
  std::int64_t number();
  std::string text();
  void bytes(std::span<std::byte> out);

 private:
  int pipe_;
  std::string crashed_;
};

inline constexpr unsigned kNoCpuLimit = 0;

/// Runs `produce` in a child, a copy of this process, and `consume` here. An InputError thrown by either is
/// thrown here; one with the text `crashed` if the child crashed or needed more than `cpu_seconds` of
/// processor time before the last item.
void in_child(unsigned cpu_seconds, const std::string& crashed, const std::function<void(Sender&)>& produce,
              const std::function<void(Receiver&)>& consume);

/// A child that answers one request after another: what it has set up, it sets up once. It is started when it
/// is asked for the first time, and ended after an answer that failed, so that damage which a bad request did
/// to its memory reaches no later answer. One thread at a time.
class AnsweringChild {
 public:
  /// What the child does with a request, as `produce` of in_child().
  using Answer = void (*)(const std::string& request, Sender& sender);

  explicit AnsweringChild(Answer answer) : answer_(answer) {}
  ~AnsweringChild() { end(); }
  AnsweringChild(const AnsweringChild&) = delete;
  AnsweringChild& operator=(const AnsweringChild&) = delete;

  /// As in_child(), with the answer to `request`.
  void ask(unsigned cpu_seconds, const std::string& crashed, const std::string& request,
           const std::function<void(Receiver&)>& consume);

 private:
  void start();
  void end();
  bool send(std::string_view text) const;

  Answer answer_;
  int id_ = -1, socket_ = -1, parent_ = -1;
};

}  // namespace moeref
