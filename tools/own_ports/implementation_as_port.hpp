// An implementation of ours behind the port interface, for the libraries of its own that offer them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

#include "moeref/implementation.hpp"
#include "moeref/port.h"

namespace moeref {

/// What the tables of our own ports have in common: every component, forward and backward, tensors of the
/// CPU, ties to the lowest id, the same bits every time. What they compute in and how they run is the
/// caller's.
moeref_port table_of_ours(const char* name, const char* version);

/// supports() of such a port: what the implementation itself says.
std::int32_t supports_with(const Implementation& implementation, const moeref_call* call, char* reason,
                           std::size_t size);

/// run() of such a port: tensors are copied in and results out, rounded to the type of their buffer. Results
/// that no buffer asks for are dropped. Nothing is thrown.
std::int32_t run_with(Implementation& implementation, const moeref_call* call, char* error, std::size_t size);

/// Their parts, for ports that do more between them. They throw std::exception for what a call cannot be.
Call call_of(const moeref_call& call);
void write_results(const moeref_call& call, const NamedTensors& results);

/// As much of the text as there is room for, and its end.
void put_text(const std::string& text, char* out, std::size_t size);

/// MOEREF_ERROR, with the text of what was thrown.
std::int32_t give_error(const std::exception& thrown, char* error, std::size_t size);

}  // namespace moeref
