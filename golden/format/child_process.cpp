#include "golden/format/child_process.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "moeref/error.hpp"

namespace moeref {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 16;  // what a pipe holds
constexpr std::int64_t kLongestText = std::int64_t{1} << 21;

/// No more processor time than this from here on.
void limit_cpu(unsigned seconds) {
  rusage used{};
  rlimit cpu{};
  ::getrusage(RUSAGE_SELF, &used);
  ::getrlimit(RLIMIT_CPU, &cpu);
  const auto until = static_cast<rlim_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + seconds + 1;
  cpu.rlim_cur = std::min(until, cpu.rlim_max);
  ::setrlimit(RLIMIT_CPU, &cpu);
}

void silence(int file) {
  if (const int nowhere = ::open("/dev/null", O_RDWR); nowhere >= 0) {
    ::dup2(nowhere, file);
    ::close(nowhere);
  }
}

/// The crash is expected: no core file, no report, no handlers of the embedding program.
void expect_a_crash() {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU, SIGPIPE})
    std::signal(signal, SIG_DFL);
  silence(STDERR_FILENO);
}

/// A child that lives on must not keep the parent's files open: who reads from them waits for their end.
void close_all_but(int kept) {
  silence(STDIN_FILENO);
  silence(STDOUT_FILENO);
  constexpr unsigned kFirst = STDERR_FILENO + 1, kLast = ~0u;
  const auto number = static_cast<unsigned>(kept);
  if (number > kFirst) ::close_range(kFirst, number - 1, 0);
  ::close_range(number + 1, kLast, 0);
}

void wait_for_end(pid_t id) {
  while (::waitpid(id, nullptr, 0) < 0 && errno == EINTR) continue;
}

[[noreturn]] void cannot_start() {
  throw InputError("no child process could be started: " + std::generic_category().message(errno));
}

/// Ends the child, by whatever way the parent leaves.
class Child {
 public:
  Child(pid_t id, int pipe) : id_(id), pipe_(pipe) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::close(pipe_);  // a child that still writes ends here
    wait_for_end(id_);
  }

 private:
  pid_t id_;
  int pipe_;
};

}  // namespace

void Sender::text(const std::string& text) {
  number(static_cast<std::int64_t>(text.size()));
  put(text.data(), text.size());
}

void Sender::put(const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  if (buffer_.size() + size <= kBuffer) {
    buffer_.append(next, size);
    return;
  }
  flush();
  while (size > 0) {
    const ssize_t count = ::write(pipe_, next, size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) ::_exit(EXIT_FAILURE);  // nobody listens any more
    next += count;
    size -= static_cast<std::size_t>(count);
  }
}

void Sender::flush() {
  std::string waiting;
  waiting.swap(buffer_);
  while (!waiting.empty()) {
    const ssize_t count = ::write(pipe_, waiting.data(), waiting.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) ::_exit(EXIT_FAILURE);
    waiting.erase(0, static_cast<std::size_t>(count));
  }
}

bool Receiver::next() {
  switch (number()) {
    case Sender::kEnd:
      return false;
    case Sender::kItem:
      return true;
    case Sender::kError:
      throw InputError(text());
    default:
      throw InputError(crashed_);
  }
}

std::int64_t Receiver::number() {
  std::int64_t value = 0;
  bytes(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::string Receiver::text() {
  const std::int64_t size = number();
  if (size < 0 || size > kLongestText) throw InputError(crashed_);
  std::string text(static_cast<std::size_t>(size), '\0');
  bytes(std::as_writable_bytes(std::span(text)));
  return text;
}

void Receiver::bytes(std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t count = ::read(pipe_, out.data(), out.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw InputError(crashed_);
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

/// What `produce` sends and its end, or the reason why there is none. False after a reason.
bool send_answer(Sender& sender, const std::function<void()>& produce) {
  std::string wrong;
  try {
    produce();
    sender.number(Sender::kEnd);
  } catch (const InputError& error) {
    wrong = error.what();
  } catch (const std::bad_alloc&) {
    wrong = "does not fit into memory";
  } catch (const std::length_error&) {
    wrong = "does not fit into memory";
  } catch (...) {
    ::_exit(EXIT_FAILURE);
  }
  if (!wrong.empty()) {
    sender.number(Sender::kError);
    sender.text(wrong);
  }
  sender.flush();
  return wrong.empty();
}

void in_child(unsigned cpu_seconds, const std::string& crashed, const std::function<void(Sender&)>& produce,
              const std::function<void(Receiver&)>& consume) {
  std::array<int, 2> ends{};
  const pid_t id = ::pipe2(ends.data(), O_CLOEXEC) == 0 ? ::fork() : -1;
  if (id < 0) cannot_start();
  if (id == 0) {
    expect_a_crash();
    if (cpu_seconds != kNoCpuLimit) limit_cpu(cpu_seconds);
    Sender sender(ends[1]);
    send_answer(sender, [&] { produce(sender); });
    ::_exit(EXIT_SUCCESS);  // no destructors, no exit handlers: they are the parent's
  }
  ::close(ends[1]);
  const Child child(id, ends[0]);
  Receiver receiver(ends[0], crashed);
  consume(receiver);
}

void AnsweringChild::start() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) cannot_start();
  parent_ = ::getpid();
  id_ = ::fork();
  if (id_ == 0) {
    expect_a_crash();
    close_all_but(ends[1]);
    Receiver requests(ends[1], "");
    Sender sender(ends[1]);
    for (;;) try {
        limit_cpu(static_cast<unsigned>(requests.number()));
        const std::string request = requests.text();
        if (!send_answer(sender, [&] { answer_(request, sender); })) ::_exit(EXIT_SUCCESS);
      } catch (...) {
        ::_exit(EXIT_SUCCESS);  // the parent is gone
      }
  }
  ::close(ends[1]);
  socket_ = ends[0];
  if (id_ < 0) {
    const int error = errno;
    end();
    errno = error;
    cannot_start();
  }
}

void AnsweringChild::end() {
  if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  const pid_t id = std::exchange(id_, -1);
  if (id <= 0 || parent_ != ::getpid()) return;  // a copy of this process has no such child
  ::kill(id, SIGKILL);
  wait_for_end(id);
}

bool AnsweringChild::send(std::string_view text) const {
  while (!text.empty()) {
    const ssize_t count = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

void AnsweringChild::ask(unsigned cpu_seconds, const std::string& crashed, const std::string& request,
                         const std::function<void(Receiver&)>& consume) {
  const std::array<std::int64_t, 2> numbers{cpu_seconds, static_cast<std::int64_t>(request.size())};
  std::string text(reinterpret_cast<const char*>(numbers.data()), sizeof numbers);
  text += request;
  if (parent_ != ::getpid()) end();
  // One that has been ended from outside is started again.
  if (socket_ < 0 || !send(text)) {
    end();
    start();
    if (!send(text)) throw InputError(crashed);
  }
  try {
    Receiver receiver(socket_, crashed);
    consume(receiver);
  } catch (...) {
    end();
    throw;
  }
}

}  // namespace moeref
