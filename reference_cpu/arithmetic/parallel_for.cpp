#include "reference_cpu/arithmetic/parallel_for.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace moeref {
namespace {

std::atomic<int> requested_threads{0};
thread_local bool inside_loop = false;

int machine_threads() {
  if (const char* text = std::getenv("MOEREF_THREADS")) {
    const int threads = std::atoi(text);
    if (threads > 0) return threads;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

void set_thread_count(int threads) { requested_threads = threads; }

int thread_count() {
  const int requested = requested_threads;
  return requested > 0 ? requested : machine_threads();
}

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  const std::int64_t threads = std::min<std::int64_t>(count, thread_count());
  if (threads <= 1 || inside_loop) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&] {
    inside_loop = true;
    for (std::int64_t i = next++; i < count; i = next++) {
      try {
        body(i);
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
        next = count;
      }
    }
    inside_loop = false;
  };
  {
    std::vector<std::jthread> pool;
    for (std::int64_t t = 1; t < threads; ++t) pool.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

void parallel_pieces(std::int64_t count, std::int64_t piece,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
  parallel_for((count + piece - 1) / piece,
               [&](std::int64_t i) { body(i * piece, std::min(piece, count - i * piece)); });
}

std::optional<std::int64_t> parallel_first(
    std::int64_t count, std::int64_t piece,
    const std::function<std::optional<std::int64_t>(std::int64_t, std::int64_t)>& find) {
  std::atomic<std::int64_t> earliest{count};
  parallel_pieces(count, piece, [&](std::int64_t first, std::int64_t size) {
    if (first > earliest) return;
    const std::optional<std::int64_t> found = find(first, size);
    std::int64_t now = earliest;
    while (found && *found < now && !earliest.compare_exchange_weak(now, *found)) continue;
  });
  return earliest == count ? std::nullopt : std::optional<std::int64_t>(earliest);
}

void populate(void* memory, std::size_t bytes) {
  constexpr std::uintptr_t kPiece = std::uintptr_t{64} << 20, kPage = std::uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + bytes) / kPage * kPage;
  if (last < first + 2 * kPiece) return;
  // These are hints: where the kernel does not take them, pages come at their first use.
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
  parallel_for(static_cast<std::int64_t>((last - first + kPiece - 1) / kPiece), [&](std::int64_t i) {
    const std::uintptr_t at = first + static_cast<std::uintptr_t>(i) * kPiece;
    madvise(reinterpret_cast<void*>(at), std::min(kPiece, last - at), MADV_POPULATE_WRITE);
  });
#endif
}

}  // namespace moeref
