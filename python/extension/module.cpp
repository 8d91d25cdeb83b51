// moeref._moeref: what the package moeref is made of. Configs and call options cross as JSON texts.
#include <nanobind/nanobind.h>

#include "moeref/error.hpp"
#include "python/extension/calls.hpp"

NB_MODULE(_moeref, module) {
  nanobind::exception<moeref::InputError>(module, "InputError", PyExc_ValueError);
  moeref::python::bind_calls(module);
}
