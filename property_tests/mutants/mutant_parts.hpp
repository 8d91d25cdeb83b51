// What mutants are made of: a call with something changed, and results with a part of them exchanged.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/mutants/tables.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {

inline bool is(const Call& call, Component component) { return call.component == component; }

/// A whole number of the config.
inline std::int64_t size(const Call& call, const char* field) {
  return call.config.at(field).get<std::int64_t>();
}

/// Elements i of a result, where it is there, changed to f(i, value).
template <typename F>
void change(NamedTensors& results, std::string_view name, F&& f) {
  const auto found = results.find(name);
  if (found == results.end()) return;
  for (std::int64_t i = 0; i < found->second.size(); ++i) found->second.set(i, f(i, found->second[i]));
}

/// A tensor of the call, where it is there, set to one value.
inline void fill(Call& call, std::string_view name, double value) {
  const auto found = call.tensors.find(name);
  if (found != call.tensors.end())
    found->second = filled(found->second.dtype(), found->second.shape(), value);
}

/// The sound results with those whose names start with `prefix` taken from another call.
NamedTensors with_results_of(Implementation& sound, const Call& call, const Call& other,
                             std::string_view prefix);

/// The rank that owns each of a call's tokens, whichever kind of ranks it has.
std::vector<std::int64_t> owners(const Call& call, std::int64_t tokens);

/// The call with all tokens masked but those of the first rank.
Call first_rank_only(const Call& call, const char* mask_stem);

}  // namespace moeref
