#include "property_tests/suite/sampling.hpp"

#include <algorithm>
#include <utility>

namespace moeref {
namespace {

Sampling& noted() {
  thread_local Sampling sampling;
  return sampling;
}

}  // namespace

void add(Sampling& sum, const Sampling& more) {
  sum.worst_ratio = std::max(sum.worst_ratio, more.worst_ratio);
  if (more.cases == 0) return;
  sum.tokens = sum.cases == 0 ? more.tokens : std::min(sum.tokens, more.tokens);
  sum.cases += more.cases;
  sum.judged += more.judged;
  sum.elements += more.elements;
  sum.copied += more.copied;
}

void note_sampling(const Sampling& of_a_case) { add(noted(), of_a_case); }
Sampling take_sampling() { return std::exchange(noted(), {}); }

}  // namespace moeref
