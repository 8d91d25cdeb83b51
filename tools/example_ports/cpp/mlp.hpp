// The dense MLP, which is also the shared experts.
#pragma once

#include <string>

#include "call.hpp"

namespace example {

struct MLPShape {
  long dim, width;
  std::string activation;
  float swiglu_limit;
  bool bias;
};

/// `prefix` is "" in mlp and "shared_experts." in moe. With `dy`, writes the gradients of the parameters and
/// fills `d_x`.
Matrix run_mlp(const Call& call, const std::string& prefix, const MLPShape& shape, const Matrix& x,
               const Matrix* dy, Matrix* d_x);

}  // namespace example
