// The routed experts, one after the other: gather the rows of an expert, two products with the activation
// between them, add the result to the rows of its tokens.
#pragma once

#include <string>
#include <vector>

#include "call.hpp"

namespace example {

struct ExpertGradients {
  Matrix x, weights;
};

/// Where each token goes.
struct Dispatch {
  const std::vector<std::int64_t>& ids;  ///< [tokens, k]; negative = no expert
  const Matrix& weights;                 ///< [tokens, k]
  const std::vector<bool>& real;
};

/// The experts whose parameters the call holds, `first` and those behind it; the others' slots are passed
/// over. `prefix` is "" in experts and "experts." in moe. With `dy`, writes the gradients of the parameters
/// and fills `gradients`.
Matrix run_own_experts(const Call& call, const std::string& prefix, long first, const Matrix& x,
                       const Dispatch& to, const Matrix* dy, ExpertGradients* gradients);

}  // namespace example
