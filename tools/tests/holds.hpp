// Whether a text says something, for expectations that name the text when it does not.
#pragma once

#include <string>

namespace moeref {

inline bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace moeref
