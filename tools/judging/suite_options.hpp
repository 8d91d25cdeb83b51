// What a run of the property suite takes where its caller does not say, from the command line and from
// Python.
#pragma once

#include <string_view>

#include "moeref/property.hpp"
#include "moeref/runner.hpp"
#include "tools/ports/port.hpp"

namespace moeref {

struct ScaleDefaults {
  int cases;  ///< of a property; beyond `small` of each of its components
  double timeout, shrink_seconds;
};
ScaleDefaults defaults_of(Scale scale);

/// Sizes of the scale in types that the port offers, what it declares, and the scale's defaults. Cases of
/// `small` run on one thread each from here on: threads would cost more than they compute.
RunOptions run_options(const Port& port, Scale scale);

/// By id or name. Throws InputError where there is none.
const Property& property_named(std::string_view id_or_name);

}  // namespace moeref
