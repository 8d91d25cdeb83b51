// What a port is, measured call by call: the same bits run to run, alone or in a batch, at every place; which
// of equal scores it takes; how it adds up (sum_probe.hpp). What it declares is proven over these calls or
// refuted by one of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "moeref/descriptor.hpp"
#include "tools/ports/port.hpp"

namespace moeref {

enum class Standing : std::uint8_t {
  measured,  ///< nothing was declared
  proven,    ///< as declared, over the calls that were made
  refuted,
  unknown,  ///< could not be measured
};

std::string_view name(Standing standing);

struct ProbeFact {
  std::string component;  ///< empty for what is not about one
  std::string subject;    ///< "run to run", "batch", "ties", "order of the gate logits in float32"
  std::string found;      ///< in words
  Standing standing = Standing::measured;
  std::string line = {};  ///< the call that refutes it, as a descriptor's line
  std::string tree = {};  ///< of an order of sums, whole
};

struct ProbeOptions {
  std::vector<Component> components;  ///< empty = all
  int runs = 5;
  std::int64_t most_tokens = 1025;
  std::int64_t terms = 64;  ///< of a probed sum
  std::uint64_t seed = 1;
  /// Runs while something else keeps the port's machine busy; null = it does not.
  std::function<void(bool busy)> keep_busy = nullptr;
};

/// Each component that the port has, in the first of float32, bfloat16 and float64 that it takes.
std::vector<ProbeFact> probe_repetition(Port& port, const ProbeOptions& options);
std::vector<ProbeFact> probe_batches(Port& port, const ProbeOptions& options);
std::vector<ProbeFact> probe_ties(Port& port, const ProbeOptions& options);
/// In float32, bfloat16 and float64.
std::vector<ProbeFact> probe_sums(Port& port, const ProbeOptions& options);

/// b - 1, b and b + 1 for b = 8, 16, ..., as far as they go.
std::vector<std::int64_t> batch_ladder(std::int64_t most_tokens);

}  // namespace moeref
