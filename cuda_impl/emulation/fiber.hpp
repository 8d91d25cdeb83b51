// A stack of its own that runs a function over and over: what a thread of a block runs on.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace emulated {

/// Where an OS thread or a fiber goes on.
struct Place {
  jmp_buf registers;
  ucontext_t context;            // under AddressSanitizer, which wants to be told of stacks, in place of it
  const void* bottom = nullptr;  // of the stack
  std::size_t size = 0;
};

class Fiber : public Place {
 public:
  /// `loop` never returns.
  explicit Fiber(std::function<void()> loop);
  std::function<void()> loop;
  std::unique_ptr<char[]> stack;
  bool started = false;
};

/// Leaves `from` and goes on in `to`; returns when something goes on in `from`. A fiber's first time begins
/// its loop.
void go_on(Place& from, Fiber& to);
void go_on(Place& from, Place& to);

}  // namespace emulated
