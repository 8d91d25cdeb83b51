// The routed experts, by one process or by the ranks of an expert-parallel call, which hold E / n experts
// each.
#pragma once

#include "experts.hpp"

namespace example {

/// y of this process's tokens. As run_own_experts, with gradients of this process's x and weights.
Matrix run_experts(const Call& call, const std::string& prefix, const Matrix& x, const Dispatch& to,
                   const Matrix* dy, ExpertGradients* gradients);

}  // namespace example
