// A fiber begins by makecontext and goes on by longjmp, which makes no system call; by swapcontext under
// AddressSanitizer.
#undef _FORTIFY_SOURCE  // its longjmp refuses another stack
#include "cuda_impl/emulation/fiber.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulated {
namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10;

thread_local Fiber* beginning = nullptr;

void begin() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  beginning->loop();
}

void prepare(Fiber& fiber) {
  fiber.started = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = fiber.size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, begin, 0);
  beginning = &fiber;
}

}  // namespace

Fiber::Fiber(std::function<void()> body) : loop(std::move(body)), stack(new char[kStackBytes]) {
  bottom = stack.get();
  size = kStackBytes;
}

#ifdef __SANITIZE_ADDRESS__

void go_on(Place& from, Place& to) {
  if (!to.bottom) {  // the OS thread's own stack
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &to.size);
    pthread_attr_destroy(&attributes);
    to.bottom = bottom;
  }
  void* kept = nullptr;
  __sanitizer_start_switch_fiber(&kept, to.bottom, to.size);
  swapcontext(&from.context, &to.context);
  __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
}

void go_on(Place& from, Fiber& to) {
  if (!to.started) prepare(to);
  go_on(from, static_cast<Place&>(to));
}

#else

[[gnu::noinline]] void go_on(Place& from, Place& to) {
  if (_setjmp(from.registers) == 0) _longjmp(to.registers, 1);
}

[[gnu::noinline]] void go_on(Place& from, Fiber& to) {
  if (to.started) return go_on(from, static_cast<Place&>(to));
  prepare(to);
  if (_setjmp(from.registers) == 0) setcontext(&to.context);
}

#endif

}  // namespace emulated
