// The command starts small beside every build: scripts start it once per question.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace moeref::testing {
namespace {

TEST(StartTest, TakesLittleMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory counts";
#endif
  char command[] = MOEREF_COMMAND, version[] = "--version";
  char* words[] = {command, version, nullptr};
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t id = -1;
  ASSERT_EQ(::posix_spawn(&id, command, &files, nullptr, words, environ), 0);
  ::posix_spawn_file_actions_destroy(&files);
  int status = -1;
  rusage used{};
  ASSERT_EQ(::wait4(id, &status, 0, &used), id);
  EXPECT_EQ(status, 0);
  constexpr long kMostKiB = 20 << 10;
  EXPECT_LE(used.ru_maxrss, kMostKiB);
}

}  // namespace
}  // namespace moeref::testing
