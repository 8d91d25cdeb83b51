// A fiber begins by makecontext and goes on by longjmp, which makes no system call.
#undef _FORTIFY_SOURCE  // its longjmp refuses another stack
#include "fiber.hpp"

#include <ucontext.h>

namespace emulated {
namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;

void begin(unsigned low, unsigned high) {
  const auto address = static_cast<std::uintptr_t>(high) << 32 | low;
  reinterpret_cast<Fiber*>(address)->loop();
}

}  // namespace

Fiber::Fiber(std::function<void()> body) : loop(std::move(body)), stack(new char[kStackBytes]) {}

[[gnu::noinline]] void go_on(Place& from, Place& to) {
  if (_setjmp(from.registers) == 0) _longjmp(to.registers, 1);
}

[[gnu::noinline]] void go_on(Place& from, Fiber& to) {
  if (to.started) return go_on(from, static_cast<Place&>(to));
  to.started = true;
  if (_setjmp(from.registers) != 0) return;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = to.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(&to);
  makecontext(&context, reinterpret_cast<void (*)()>(&begin), 2, static_cast<unsigned>(address),
              static_cast<unsigned>(address >> 32));
  setcontext(&context);
}

}  // namespace emulated
