#include "tools/ports/port_process.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "moeref/error.hpp"
#include "tools/port_host/port_host.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

constexpr std::size_t kLongestLine = std::size_t{16} << 20;
constexpr off_t kTailBytes = 600;

[[noreturn]] void cannot_start(const std::string& program, int error) {
  throw InputError(program +
                   ": the port's process could not be started: " + std::generic_category().message(error));
}

/// Above the numbers that the child's files get, so that one is not closed to make another.
FileDescriptor copied_up(int number) {
  return FileDescriptor(::fcntl(number, F_DUPFD_CLOEXEC, kHostRanks + kMostProcesses));
}
FileDescriptor moved_up(int number) {
  FileDescriptor low(number);
  return copied_up(number);
}

SocketPair pipe_from(const std::string& program) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) cannot_start(program, errno);
  return {moved_up(ends[0]), moved_up(ends[1])};
}

class SpawnActions {
 public:
  SpawnActions() {
    ::posix_spawn_file_actions_init(&files_);
    ::posix_spawnattr_init(&attributes_);
    sigset_t all;
    sigfillset(&all);
    sigset_t none;
    sigemptyset(&none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setpgroup(&attributes_, 0);
    ::posix_spawnattr_setflags(&attributes_,
                               POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnActions() {
    ::posix_spawn_file_actions_destroy(&files_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;

  void give(int mine, int theirs) { ::posix_spawn_file_actions_adddup2(&files_, mine, theirs); }
  void open_null(int theirs) {
    ::posix_spawn_file_actions_addopen(&files_, theirs, "/dev/null", O_RDONLY, 0);
  }
  int spawn(pid_t& id, const PortProcess::Command& command) {
    std::vector<std::string> words = command.arguments;
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    return ::posix_spawn(&id, command.program.c_str(), &files_, &attributes_, pointers.data(), environ);
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

}  // namespace

SocketPair socket_pair(const std::string& for_whom) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) cannot_start(for_whom, errno);
  SocketPair pair{moved_up(ends[0]), moved_up(ends[1])};
  if (pair.one.number() < 0 || pair.other.number() < 0) cannot_start(for_whom, errno);
  return pair;
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  close();
  number_ = other.release();
  return *this;
}
int FileDescriptor::release() { return std::exchange(number_, -1); }
void FileDescriptor::close() {
  if (number_ >= 0) ::close(release());
}

PortProcess::PortProcess(const Command& command) : shell_(!command.on_socket) {
  // Appending: several processes of the port may write, and it is cut to nothing between calls.
  printed_ = moved_up(::memfd_create("moeref-port-output", MFD_CLOEXEC));
  if (printed_.number() < 0) cannot_start(command.program, errno);
  ::fcntl(printed_.number(), F_SETFL, O_APPEND);
  SocketPair talk = socket_pair(command.program);
  to_ = std::move(talk.one);
  SocketPair back;
  SpawnActions actions;
  actions.give(printed_.number(), STDERR_FILENO);
  FileDescriptor memory;
  if (command.on_socket) {
    actions.open_null(STDIN_FILENO);
    actions.give(printed_.number(), STDOUT_FILENO);
    actions.give(talk.other.number(), kHostSocket);
    memory = copied_up(command.memory);
    actions.give(memory.number(), kHostMemory);
    for (std::size_t r = 0; r < command.ranks.size(); ++r)
      if (command.ranks[r] >= 0) actions.give(command.ranks[r], kHostRanks + static_cast<int>(r));
    from_ = copied_up(to_.number());
  } else {
    back = pipe_from(command.program);
    from_ = std::move(back.one);
    actions.give(talk.other.number(), STDIN_FILENO);
    actions.give(back.other.number(), STDOUT_FILENO);
  }
  if (const int error = actions.spawn(id_, command); error != 0) cannot_start(command.program, error);
}

PortProcess::~PortProcess() { kill(); }

void PortProcess::say(const std::string& line) {
  const std::string text = line + "\n";
  std::string_view left = text;
  while (!left.empty()) {
    const ssize_t count = ::send(to_.number(), left.data(), left.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    left.remove_prefix(static_cast<std::size_t>(count));
  }
}

PortProcess::Answer PortProcess::listen(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  for (;;) {
    if (const std::size_t end = heard_.find('\n'); end != std::string::npos) {
      Answer answer{Heard::line, heard_.substr(0, end)};
      heard_.erase(0, end + 1);
      return answer;
    }
    if (heard_.size() > kLongestLine) return {Heard::endless, ""};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    pollfd from{from_.number(), POLLIN, 0};
    const int ready = ::poll(&from, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return {Heard::timeout, ""};
    char buffer[1 << 14];
    const ssize_t count = ::read(from_.number(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return {Heard::ended, heard_};
    heard_.append(buffer, static_cast<std::size_t>(count));
  }
}

void PortProcess::close(std::chrono::milliseconds limit) {
  to_.close();
  const auto until = std::chrono::steady_clock::now() + limit;
  while (id_ > 0 && std::chrono::steady_clock::now() < until) {
    siginfo_t ended{};
    // Looked at, not taken: the group is ended while its leader still holds the number.
    if (::waitid(P_PID, static_cast<id_t>(id_), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        ended.si_pid != 0)
      break;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  kill();
}

void PortProcess::kill() {
  if (id_ <= 0) return;
  ::kill(-id_, SIGKILL);
  wait();
}

void PortProcess::wait() {
  if (id_ <= 0) return;
  while (::waitpid(id_, &status_, 0) < 0 && errno == EINTR) continue;
  id_ = -1;
}

std::string PortProcess::how_it_ended() {
  const pid_t group = id_;
  wait();
  // What it started may still run.
  if (group > 0) ::kill(-group, SIGKILL);
  // A shell that waited for a program says 128 + N for one that signal N killed.
  const int code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 0;
  const int signal = WIFSIGNALED(status_) ? WTERMSIG(status_) : shell_ && code > 128 ? code - 128 : 0;
  const char* name = signal > 0 ? ::sigabbrev_np(signal) : nullptr;
  if (!name) return fmt::format("ended itself with exit code {}", code);
  return fmt::format("killed by SIG{} ({})", name, ::strsignal(signal));
}

std::string PortProcess::output_tail() const {
  const off_t size = ::lseek(printed_.number(), 0, SEEK_END);
  const off_t from = size > kTailBytes ? size - kTailBytes : 0;
  std::string text(static_cast<std::size_t>(size > 0 ? size - from : 0), '\0');
  if (text.empty() || ::pread(printed_.number(), text.data(), text.size(), from) <= 0) return "";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::string line;
  for (const char c : text) line += c == '\n' ? std::string(" | ") : std::string(1, c);
  return (from > 0 ? "... " : "") + one_line(line);
}

void PortProcess::forget_output() {
  if (::ftruncate(printed_.number(), 0) != 0) return;  // then the tail is longer than it need be
}

}  // namespace moeref
