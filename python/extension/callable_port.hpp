// A function of Python as a port in this process.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <string>

#include "tools/ports/port.hpp"

namespace moeref::python {

/// `function` takes a Call and returns (status, reason, {name: (array, dtype name)}), with the status "ok",
/// "not_supported" or "error"; `hello` declares the port as an exec port does. What ends Python itself
/// (KeyboardInterrupt) comes out of run() as nanobind::python_error. Throws InputError for a bad declaration.
std::unique_ptr<Port> make_callable_port(nanobind::object function, const std::string& hello);

}  // namespace moeref::python
