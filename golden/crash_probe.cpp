#include "crash_probe.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

namespace moeref {
namespace {

bool probing = false;

[[noreturn]] void run_and_exit(const std::function<void()>& work) {
  probing = true;
  // The crash is expected: no core file, no report, no handlers of the embedding program.
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) std::signal(signal, SIG_DFL);
  if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) ::dup2(nowhere, STDERR_FILENO);
  ::alarm(60);
  try {
    work();
  } catch (...) {
    // The parent will meet the same exception and tell it.
  }
  ::_exit(EXIT_SUCCESS);
}

}  // namespace

bool in_crash_probe() { return probing; }

bool survives(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child < 0) return true;
  if (child == 0) run_and_exit(work);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return true;
  return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}

}  // namespace moeref
