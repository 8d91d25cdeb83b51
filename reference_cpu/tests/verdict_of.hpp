// The verdict on one tensor of a call.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "moeref/verdict.hpp"

namespace moeref {

/// A test failure where the tensor was not judged.
inline const TensorVerdict& verdict_of(const CaseVerdict& v, const std::string& name) {
  for (const TensorVerdict& t : v.tensors)
    if (t.tensor == name) return t;
  static const TensorVerdict none;
  ADD_FAILURE() << name << " was not judged";
  return none;
}

}  // namespace moeref
