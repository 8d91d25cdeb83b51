// A port's library in the process that plays host to it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "moeref/port.h"

namespace moeref {

/// Loads the library and gives its table. Throws InputError, without the path, for what is no port: it cannot
/// be loaded, has no moeref_port_entry, does not speak this version, or gives a table that is too short or
/// lacks what it must have.
const moeref_port* load_port(const std::string& library);

using moeref_bench_function = decltype(moeref_port::bench);
/// bench() of the table, or null where it has none.
moeref_bench_function bench_of(const moeref_port& port);

/// What the table says about the port, in the words of an exec port's answer to "hello"
/// (ports/capabilities.hpp).
nlohmann::json describe(const moeref_port& port);

}  // namespace moeref
