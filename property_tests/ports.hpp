// The implementations that the property tests know by name.
#pragma once

#include <memory>
#include <string_view>

#include "moeref/implementation.hpp"
#include "moeref/property.hpp"

namespace moeref {

struct Port {
  std::unique_ptr<Implementation> implementation;
  Declarations declared;
};

/// Throws InputError that lists the names.
Port make_port(std::string_view name);

}  // namespace moeref
