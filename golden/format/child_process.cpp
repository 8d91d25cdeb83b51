#include "golden/format/child_process.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>

#include "moeref/error.hpp"

namespace moeref {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 16;  // what a pipe holds
constexpr std::int64_t kLongestText = std::int64_t{1} << 21;

/// The crash is expected: no core file, no report, no handlers of the embedding program, no run without end.
void expect_a_crash(unsigned cpu_seconds) {
  const rlimit no_core{0, 0};
  const rlimit cpu{cpu_seconds, cpu_seconds + 1};
  ::setrlimit(RLIMIT_CORE, &no_core);
  if (cpu_seconds != kNoCpuLimit) ::setrlimit(RLIMIT_CPU, &cpu);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU, SIGPIPE})
    std::signal(signal, SIG_DFL);
  if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) ::dup2(nowhere, STDERR_FILENO);
}

/// Ends the child, by whatever way the parent leaves.
class Child {
 public:
  Child(pid_t id, int pipe) : id_(id), pipe_(pipe) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::close(pipe_);  // a child that still writes ends here
    while (::waitpid(id_, nullptr, 0) < 0 && errno == EINTR) continue;
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

void in_child(unsigned cpu_seconds, const std::string& crashed, const std::function<void(Sender&)>& produce,
              const std::function<void(Receiver&)>& consume) {
  std::array<int, 2> ends{};
  const pid_t id = ::pipe2(ends.data(), O_CLOEXEC) == 0 ? ::fork() : -1;
  if (id < 0)
    throw InputError("no child process could be started: " + std::generic_category().message(errno));
  if (id == 0) {
    expect_a_crash(cpu_seconds);
    Sender sender(ends[1]);
    std::string wrong;
    try {
      produce(sender);
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
    ::_exit(EXIT_SUCCESS);  // no destructors, no exit handlers: they are the parent's
  }
  ::close(ends[1]);
  const Child child(id, ends[0]);
  Receiver receiver(ends[0], crashed);
  consume(receiver);
}

}  // namespace moeref
