// Ports of Python under the properties and on golden files.
#pragma once

#include <nanobind/nanobind.h>

namespace moeref::python {

/// Adds Port (a function of Python, or a command that answers requests) and properties().
void bind_ports(nanobind::module_& module);

}  // namespace moeref::python
