// A child that answers: one for many requests, another one after anything that went wrong.
#include "golden/format/child_process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

#include "moeref/error.hpp"

namespace moeref {
namespace {

void answer(const std::string& request, Sender& sender) {
  sender.item();
  sender.number(::getpid());
  if (request == "refuse") throw InputError("not this one");
  if (request == "crash") std::abort();
  while (request == "work without end") ::getpid();
  sender.text(request);
}

class AnsweringChildTest : public ::testing::Test {
 protected:
  /// The process that answered.
  std::int64_t ask(const std::string& request) {
    std::int64_t id = 0;
    child_.ask(1, "crashed", request, [&](Receiver& receiver) {
      EXPECT_TRUE(receiver.next());
      id = receiver.number();
      EXPECT_EQ(receiver.text(), request);
      EXPECT_FALSE(receiver.next());
    });
    return id;
  }
  std::string error(const std::string& request) {
    try {
      child_.ask(1, "crashed", request, [&](Receiver& receiver) {
        receiver.next();
        receiver.number();
        receiver.next();
      });
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }

  AnsweringChild child_{answer};
};

TEST_F(AnsweringChildTest, AnswersManyRequests) {
  const std::int64_t first = ask("one");
  EXPECT_NE(first, ::getpid());
  EXPECT_EQ(ask(std::string(1 << 20, 'x')), first);
  EXPECT_EQ(ask(""), first);
}

TEST_F(AnsweringChildTest, WhatFailsEndsIt) {
  std::int64_t last = ask("one");
  const struct {
    const char *request, *error;
  } ways[] = {{"refuse", "not this one"}, {"crash", "crashed"}, {"work without end", "crashed"}};
  for (const auto& way : ways) {
    EXPECT_EQ(error(way.request), way.error);
    const std::int64_t next = ask("another");
    EXPECT_NE(next, last) << way.request;
    last = next;
  }
}

TEST_F(AnsweringChildTest, WhatTheCallerThrowsEndsIt) {
  const std::int64_t first = ask("one");
  EXPECT_THROW(child_.ask(1, "crashed", "two", [](Receiver&) { throw InputError("not wanted"); }),
               InputError);
  EXPECT_NE(ask("three"), first);
}

TEST_F(AnsweringChildTest, OneThatWasEndedFromOutsideIsReplaced) {
  const std::int64_t first = ask("one");
  ::kill(static_cast<pid_t>(first), SIGKILL);
  // Until it has ended, a request may still reach it.
  siginfo_t ended{};
  ::waitid(P_PID, static_cast<id_t>(first), &ended, WEXITED | WNOWAIT);
  EXPECT_NE(ask("two"), first);
}

/// Else whoever waits for the end of such a file would wait for the child's.
TEST_F(AnsweringChildTest, KeepsNoFileOfTheCaller) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK), 0);
  ask("one");
  ::close(pipe[1]);
  char byte = 0;
  EXPECT_EQ(::read(pipe[0], &byte, 1), 0);
  ::close(pipe[0]);
}

}  // namespace
}  // namespace moeref
