// Shared memory by 32-bit addresses, and copies into it that arrive when their group is waited for.
#pragma once

#include <cstring>
#include <utility>

#include "emulated/block.hpp"

namespace emulated {

inline std::uint32_t shared_offset(const void* p) {
  return static_cast<std::uint32_t>(static_cast<const char*>(p) - static_cast<char*>(dynamic_shared_bytes()));
}
/// Static shared memory lies within 2 GiB of the dynamic one, on either side.
inline void* shared_memory(std::uint32_t offset) {
  return static_cast<char*>(dynamic_shared_bytes()) + static_cast<std::int32_t>(offset);
}

inline void copy_later(std::uint32_t to, const void* from, bool valid) {
  if (to % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("cp.async: not aligned to 16");
  self->uncommitted.push_back({to, valid ? from : nullptr});
}
inline void commit_copies() { self->groups.push_back(std::exchange(self->uncommitted, {})); }
/// Until all but the newest `pending` groups have arrived.
inline void wait_copies(int pending) {
  for (auto& groups = self->groups; groups.size() > static_cast<std::size_t>(pending); groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.from)
        std::memcpy(shared_memory(copy.to), copy.from, 16);
      else
        std::memset(shared_memory(copy.to), 0, 16);
    }
}

}  // namespace emulated
