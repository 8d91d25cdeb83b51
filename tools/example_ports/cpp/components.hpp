// The components of this port: each reads its inputs from the call, computes, and writes its outputs.
#pragma once

#include "call.hpp"

namespace example {

void run_gate(const Call& call);
void run_mlp_component(const Call& call);
void run_experts_component(const Call& call);
void run_moe(const Call& call);

}  // namespace example
