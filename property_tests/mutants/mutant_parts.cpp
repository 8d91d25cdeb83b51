#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {

NamedTensors with_results_of(Implementation& sound, const Call& call, const Call& other,
                             std::string_view prefix) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : sound.run(other))
    if (name.starts_with(prefix)) out[name] = tensor;
  return out;
}

std::vector<std::int64_t> owners(const Call& call, std::int64_t tokens) {
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  std::vector<std::int64_t> out;
  for (std::int64_t r = 0; r < parallel.size(); ++r) {
    const std::int64_t own = parallel.tokens_per_rank.empty()
                                 ? tokens / parallel.size() + (r < tokens % parallel.size())
                                 : parallel.tokens_per_rank[static_cast<std::size_t>(r)];
    out.insert(out.end(), static_cast<std::size_t>(own), r);
  }
  return out;
}

Call first_rank_only(const Call& call, const char* mask_stem) {
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  Call out = call;
  if (parallel.size() == 1) return out;
  for (const char* option : {"cp_size", "dp_size", "tokens_per_rank"}) out.options.erase(option);
  for (const auto& [name, x] : call.tensors) {
    if (!name.starts_with("inputs/x")) continue;
    const std::int64_t tokens = x.extent(0);
    const std::int64_t own = parallel.tokens_per_rank.empty()
                                 ? (tokens + parallel.size() - 1) / parallel.size()
                                 : parallel.tokens_per_rank.front();
    Tensor& mask = out.tensors[mask_stem + name.substr(std::string("inputs/x").size())];
    if (mask.size() != tokens || mask.dtype() != DType::boolean) mask = filled(DType::boolean, {tokens}, 1.0);
    for (std::int64_t t = own; t < tokens; ++t) mask.set(t, 0.0);
  }
  return out;
}

}  // namespace moeref
