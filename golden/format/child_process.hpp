// Work that may crash, done in a child process: HDF5 1.10 trusts much of what it reads, and a damaged file
// makes it crash, hang, or go on with damaged memory; after a full disk it crashes at exit. What comes back
// is plain data through a pipe.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace moeref {

/// The child's end. The parent must take what is put here in the same order.
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
  friend void in_child(unsigned, const std::string&, const std::function<void(Sender&)>&,
                       const std::function<void(class Receiver&)>&);
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

}  // namespace moeref
