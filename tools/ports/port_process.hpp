// A process that a port lives in, in a process group of its own: lines to it and from it with a time limit,
// what it printed, and how it ended.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moeref {

/// An open file, closed with it.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  ~FileDescriptor() { close(); }
  FileDescriptor(FileDescriptor&& other) noexcept : number_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int number() const { return number_; }
  int release();
  void close();

 private:
  int number_ = -1;
};

/// A stream between two processes. Neither end has one of the numbers that a port's process is given.
struct SocketPair {
  FileDescriptor one, other;
};
/// Throws InputError naming `for_whom` when the system has none left.
SocketPair socket_pair(const std::string& for_whom);

class PortProcess {
 public:
  struct Command {
    std::string program;
    std::vector<std::string> arguments;  ///< the first is the program's own name
    /// Its end of the conversation: a socket as file 3 (with `memory` as file 4), stdout being kept as what
    /// it prints; or stdin and stdout, of a shell.
    bool on_socket = false;
    int memory = -1;
    /// With a socket: those to the other ranks, as files from kHostRanks on; -1 for the own rank.
    std::vector<int> ranks = {};
  };

  /// Throws InputError when it cannot be started.
  explicit PortProcess(const Command& command);
  ~PortProcess();
  PortProcess(const PortProcess&) = delete;
  PortProcess& operator=(const PortProcess&) = delete;

  enum class Heard : std::uint8_t { line, timeout, ended, endless };
  struct Answer {
    Heard heard;
    std::string line;
  };

  /// Can be read when listen() has something to hear.
  int answers() const { return from_.number(); }

  /// Sends the process one line. If the process has ended, the answer says so.
  void say(const std::string& line);
  /// The next line from it; `endless` for one that has no end within 16 MiB.
  Answer listen(std::chrono::milliseconds limit);

  /// Closes its stdin and gives it `limit` to end by itself, then ends its group.
  void close(std::chrono::milliseconds limit);
  /// Ends its group, now.
  void kill();

  /// "killed by SIGSEGV (Segmentation fault)", "ended itself with exit code 7"; waits for its end, so call it
  /// when it has.
  std::string how_it_ended();

  /// The last lines that it printed (stderr, and stdout where that is not the conversation) since
  /// forget_output(), as one line; empty when nothing.
  std::string output_tail() const;
  void forget_output();

 private:
  void wait();

  FileDescriptor to_, from_, printed_;
  bool shell_;
  pid_t id_ = -1;
  int status_ = 0;
  std::string heard_;
};

}  // namespace moeref
