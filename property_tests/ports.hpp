// The implementations that the property tests know by name.
#pragma once

#include <memory>
#include <string_view>

#include "moeref/implementation.hpp"

namespace moeref {

struct Port {
  std::unique_ptr<Implementation> implementation;
  bool lowest_id_first = false;  ///< its declared tie rule
};

/// Throws InputError that lists the names.
Port make_port(std::string_view name);

}  // namespace moeref
