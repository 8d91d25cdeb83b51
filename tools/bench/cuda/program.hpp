// What the benchmark programs have in common: shapes by name, and an exit code.
#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace moeref::cuda::bench {

/// The widths and counts of a preset, for bfloat16 and swiglu.
struct Shape {
  const char* name;
  int tokens, dim, inter_dim, experts, slots;
};

/// Those shapes in the order of the presets; all where none is named. Throws ArgumentError.
std::vector<Shape> shapes_named(const std::vector<std::string>& names);

/// main(): what `run` returns, or 2 with the message of what it throws.
inline int run_program(const char* name, int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 2;
  }
}

}  // namespace moeref::cuda::bench
