#include "property_tests/layer/tests/layer_bug_parts.hpp"

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

}  // namespace moeref
