// Tensors of the reference and arrays of Python. An array crosses as the pair (array, dtype name): NumPy has
// no bfloat16 of its own, so that such values cross as their bits, in uint16.
#pragma once

#include <nanobind/nanobind.h>

#include "moeref/evaluation.hpp"
#include "moeref/tensor.hpp"

namespace moeref::python {

/// From {name: (array, dtype name)}: C-contiguous arrays in CPU memory, which stay where they are and are
/// kept alive. Throws InputError naming the array whose elements are not of the dtype's size.
NamedTensors lent_tensors(const nanobind::dict& arrays);

/// As {name: (array, dtype name)}. The arrays are read-only and keep the memory of the tensors.
nanobind::dict arrays_of(const NamedTensors& tensors);

/// As {name: (values in float64, bounds in float32, dtype name)}, without copies.
nanobind::dict arrays_of(Evaluation evaluation);

}  // namespace moeref::python
