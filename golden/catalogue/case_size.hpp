// How much memory a case takes, before it is built.
#pragma once

#include "golden/catalogue/case_builder.hpp"

namespace moeref {

/// Bytes that the tensors of a case take at least, results in fp64 with their bounds. Throws InputError for
/// an impossible config.
double bytes_of(const CaseSpec& spec);

/// Bytes of RAM.
double memory_of_machine();

}  // namespace moeref
