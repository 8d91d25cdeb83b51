#include "reference_cpu/call/tokens.hpp"

#include <cstddef>

namespace moeref {

std::int64_t token_count(const Call& call) {
  const Tensor* x = find(call.tensors, facts(call.component).token_input);
  return !x || x->size() == 0 ? 0 : x->size() / x->shape().back();
}

bool is_live(const Call& call, std::int64_t token) {
  if (const Tensor* mask = find(call.tensors, "inputs/token_mask")) return (*mask)[token] != 0.0;
  if (const Tensor* padding = find(call.tensors, "inputs/padding_mask")) return (*padding)[token] == 0.0;
  return true;
}

std::vector<bool> live_tokens(const Call& call) {
  std::vector<bool> out(static_cast<std::size_t>(token_count(call)), true);
  for (std::size_t t = 0; t < out.size(); ++t) out[t] = is_live(call, static_cast<std::int64_t>(t));
  return out;
}

}  // namespace moeref
