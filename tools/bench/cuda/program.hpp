// What the benchmark programs have in common: shapes by name, and an exit code.
#pragma once

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iterator>
#include <string>
#include <vector>

#include "moeref/cuda/error.hpp"
#include "tools/bench/cuda/shapes.hpp"

namespace moeref::cuda::bench {

/// Those shapes in the order of the table; all where none is named. Throws ArgumentError.
inline std::vector<Shape> shapes_named(const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (std::none_of(std::begin(kShapes), std::end(kShapes), [&](const Shape& s) { return name == s.name; }))
      throw ArgumentError("unknown shape '" + name + "': want mixtral, qwen3_30b, dsv3, gpt_oss or olmoe");
  std::vector<Shape> out;
  for (const Shape& s : kShapes)
    if (names.empty() || std::find(names.begin(), names.end(), s.name) != names.end()) out.push_back(s);
  return out;
}

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
