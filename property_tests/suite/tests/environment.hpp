// Numbers that a longer run of the tests sets in the environment.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace moeref {

inline std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace moeref
