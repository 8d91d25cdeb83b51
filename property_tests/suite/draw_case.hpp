// The case of a property that random bits stand for.
#pragma once

#include <cstdint>

#include "moeref/property.hpp"

namespace moeref {

/// Drawn within the range (sixteen times its budget where every case of the property has extents of the
/// ladder), prepared for the property, and lowered where its arrangement raised an extent beside a large one.
Descriptor draw_case(const Property& property, Component component, std::uint64_t bits,
                     const SizeRange& range = {});

}  // namespace moeref
