// Calls of components as objects of Python, and what the reference says of them.
#pragma once

#include <nanobind/nanobind.h>

namespace moeref::python {

/// Adds Call, draw, call_of_line, read_golden, evaluate and judge.
void bind_calls(nanobind::module_& module);

}  // namespace moeref::python
