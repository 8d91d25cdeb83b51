// The command's large allocations lie in huge pages: a full-width layer is gigabytes, and of 71 s of
// processor time for judging one the system took 34, half of that for pages of 4 KiB (2026-11-28, qwen3_30b,
// 64 tokens).
#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kLarge = 2 * kHugePage;

void* allocate(std::size_t size) {
  if (size < kLarge) return std::malloc(size > 0 ? size : 1);
  if (size > static_cast<std::size_t>(-1) - kHugePage) return nullptr;
  const std::size_t whole_pages = (size + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, whole_pages);
  // A wish: where the system has no huge pages the memory is as good.
  if (memory) ::madvise(memory, whole_pages, MADV_HUGEPAGE);
  return memory;
}

}  // namespace

void* operator new(std::size_t size) {
  for (;;) {
    if (void* memory = allocate(size)) return memory;
    const std::new_handler handler = std::get_new_handler();
    if (!handler) throw std::bad_alloc();
    handler();
  }
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
