// Element types between named tensors and DLPack.
#pragma once

#include <dlpack/dlpack.h>

#include <optional>

#include "moeref/dtype.hpp"

namespace moeref {

/// bfloat16 is kDLBfloat; a boolean is kDLUInt of 8 bits.
DLDataType to_dlpack(DType dtype);

/// Nothing for a type that no named tensor has.
std::optional<DType> from_dlpack(DLDataType type);

}  // namespace moeref
