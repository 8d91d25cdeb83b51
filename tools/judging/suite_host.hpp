// The properties and golden files for a program of another language: what the Python package asks.
#pragma once

#include <string>

namespace moeref {

/// The properties on stdout, a JSON list of {"name", "components", "checks", "any_scale"}: whether a property
/// is for the scales beyond small, too.
int print_suite();

/// Opens a port, asked call by call for at most `timeout` seconds, and answers requests on stdin, one JSON
/// object per line, until it ends:
///   {"check": PROPERTY, "scale": "small", "seed": 1, "cases": 100, "component": "gate", "forward_only":
///   false}
///   {"repeat": PROPERTY, "line": LINE}
///   {"validate": FILE, "forward_only": false}
/// An answer has "status" (a verdict's or a run status's name), "failed" and "finding"; {"error": TEXT} where
/// the request is bad. The first line on stdout says that the port was opened, or why not.
int run_suite_host(const std::string& port, const std::string& timeout);

}  // namespace moeref
