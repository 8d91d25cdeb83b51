// How a check tells the runner what it judged by samples.
#pragma once

#include "moeref/runner.hpp"

namespace moeref {

void add(Sampling& sum, const Sampling& more);

/// What checks of this thread note is added up until it is taken.
void note_sampling(const Sampling& of_a_case);
Sampling take_sampling();

}  // namespace moeref
