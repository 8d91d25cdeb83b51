// What a port declares about itself, as the property suite and `moeref probe` take it.
#pragma once

#include "moeref/property.hpp"
#include "tools/ports/port.hpp"

namespace moeref {

/// Nothing declared of a port that is not asked (files); of the reference everything but rounding.
Declarations declared_by(const Port& port);

/// The call on which answers are judged whose float32 products are declared to be such: under the option
/// float32_products.
Call as_judged(Call call, Float32Products declared);

/// Of sums; float64 of the reference, nothing where the port is not asked.
std::optional<DType> declared_accumulation(const Port& port);

}  // namespace moeref
