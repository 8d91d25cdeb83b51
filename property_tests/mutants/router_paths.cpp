// Routers whose path for some numbers of experts and slots leaves a feature out.
#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// A path that is taken at these numbers of experts and slots alone, and leaves something out.
template <std::int64_t E, std::int64_t K>
bool sizes_are(const Call& call) {
  return is_one_of(call, {C::gate, C::moe}) && size(call, "n_routed_experts") == E &&
         size(call, "n_activated_experts") == K;
}
NamedTensors path_for_64_6_lacks_scale(Implementation& sound, const Call& call) {
  return sizes_are<64, 6>(call) ? sound.run(with_config(call, {{"route_scale", 1.0}})) : sound.run(call);
}
NamedTensors path_for_256_8_lacks_groups(Implementation& sound, const Call& call) {
  return sizes_are<256, 8>(call)
             ? sound.run(with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}))
             : sound.run(call);
}
NamedTensors path_for_128_8_lacks_normalisation(Implementation& sound, const Call& call) {
  return sizes_are<128, 8>(call) ? sound.run(with_config(call, {{"norm_topk_prob", false}}))
                                 : sound.run(call);
}
NamedTensors path_for_32_4_scores_before(Implementation& sound, const Call& call) {
  return sizes_are<32, 4>(call) ? sound.run(with_config(call, {{"softmax_before_topk", true}}))
                                : sound.run(call);
}

NamedTensors path_beyond_512_lacks_scale(Implementation& sound, const Call& call) {
  const bool taken = is_one_of(call, {C::gate, C::moe}) && size(call, "n_routed_experts") > 512;
  return taken ? sound.run(with_config(call, {{"route_scale", 1.0}})) : sound.run(call);
}

NamedTensors path_beyond_16_slots_lacks_normalisation(Implementation& sound, const Call& call) {
  const bool taken = is_one_of(call, {C::gate, C::moe}) && size(call, "n_activated_experts") > 16;
  return taken ? sound.run(with_config(call, {{"norm_topk_prob", false}})) : sound.run(call);
}

const Mutant kRouterPathMutants[] = {
    {"path_beyond_512_lacks_scale",
     "",
     "",
     {C::gate, C::moe},
     "the path for more than 512 experts does not scale",
     "F L",
     "outputs/weights",
     "routed_sizes",
     path_beyond_512_lacks_scale},
    {"path_beyond_16_slots_lacks_normalisation",
     "",
     "",
     {C::gate, C::moe},
     "the path for more than 16 slots does not normalise",
     "F L",
     "outputs/weights",
     "routed_sizes",
     path_beyond_16_slots_lacks_normalisation},
    {"path_for_64_6_lacks_scale",
     "O40",
     "",
     {C::gate, C::moe},
     "the path for 64 experts and 6 slots does not scale",
     "F L",
     "outputs/weights",
     "routed_sizes",
     path_for_64_6_lacks_scale},
    {"path_for_256_8_lacks_groups",
     "O40",
     "",
     {C::gate, C::moe},
     "the path for 256 experts and 8 slots ignores groups",
     "F L",
     "outputs/indices",
     "routed_sizes",
     path_for_256_8_lacks_groups},
    {"path_for_128_8_lacks_normalisation",
     "O40",
     "",
     {C::gate, C::moe},
     "the path for 128 experts and 8 slots does not normalise",
     "F L",
     "outputs/weights",
     "routed_sizes",
     path_for_128_8_lacks_normalisation},
    {"path_for_32_4_scores_before",
     "O40",
     "",
     {C::gate, C::moe},
     "the path for 32 experts and 4 slots takes the softmax over all experts",
     "F L",
     "outputs/weights",
     "routed_sizes",
     path_for_32_4_scores_before},
};

}  // namespace

std::span<const Mutant> router_path_mutants() { return kRouterPathMutants; }

}  // namespace moeref
