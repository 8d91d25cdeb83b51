// Arrays one after another in one block of memory.
#pragma once

#include <cstddef>

namespace moeref::cuda {

/// Takes arrays at multiples of 256 bytes; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(std::size_t count) {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }
  void* take_bytes(std::size_t bytes) {
    char* at = memory_ ? memory_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return at;
  }
  std::size_t used() const { return used_; }

 private:
  char* memory_;
  std::size_t used_ = 0;
};

template <class Layout, class... Arguments>
Layout laid_out(void* memory, const Arguments&... arguments) {
  Arena arena(memory);
  return Layout(arena, arguments...);
}

/// Bytes that `Layout(arena, arguments...)` takes.
template <class Layout, class... Arguments>
std::size_t bytes_taken(const Arguments&... arguments) {
  Arena arena(nullptr);
  Layout layout(arena, arguments...);
  return arena.used();
}

}  // namespace moeref::cuda
