// Every component at the sizes where kernels change their path, in small calls and in those of real layers.
#include <algorithm>

#include "moeref/verdict.hpp"
#include "property_tests/descriptor/extents.hpp"
#include "property_tests/suite/answer.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "property_tests/suite/sampling.hpp"
#include "reference_cpu/verdict/reduced_call.hpp"
#include "reference_cpu/verdict/sampled.hpp"

namespace moeref {
namespace {

/// Up to here the reference computes the whole call, in seconds.
constexpr double kMultiplyAdds = 0x1p31;

void require_pass(const CaseVerdict& verdict, const Descriptor& d) {
  note_sampling({.worst_ratio = verdict.worst_ratio()});
  if (const TensorVerdict* t = verdict.first_failure())
    fail({t->tensor, t->index, t->value, t->reference, t->bound,
          "in " + std::string(name(d.dtype)) + ", r > 1: " + t->finding});
}

void every_size(Implementation& impl, const Descriptor& d) {
  const Answer answer(impl, full_call(impl, d));
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;  // ties and coarse logits are drawn on purpose
  if (multiply_adds(d) <= kMultiplyAdds || !can_be_reduced(answer.call()))
    return require_pass(judge(answer.call(), answer.results(), options), d);

  SampleSize size;
  if (d.T > 4096) size.bytes = 0x1p35;  // of a machine for real layers
  const SampledJudge sampled(answer.call(), answer.results(), size);
  // One after the other, so that one call at a time is in memory beside the first.
  NamedTensors sparse;
  if (answer.call().backward) sparse = Answer(impl, sampled.sparse_call()).results();
  const NamedTensors copies = Answer(impl, sampled.copies_call()).results();
  const SampledVerdict verdict = sampled.judge(answer.call().backward ? &sparse : nullptr, &copies, options);
  note_sampling({.cases = 1,
                 .judged = static_cast<double>(verdict.judged),
                 .elements = static_cast<double>(verdict.elements),
                 .tokens = verdict.tokens,
                 .copied = static_cast<double>(verdict.copied)});
  require_pass(verdict.verdict, d);
}

void arrange_size(Descriptor& d) {
  // A balanced gate's noise is seeded by x's mean in the dtype at hand, and compared exactly.
  d.noise = 0.0;
}

const Property kSizeProperties[] = {
    {"P58",
     "every_size",
     {Component::gate, Component::mlp, Component::experts, Component::moe},
     PropertyClass::bounded,
     "at every step of the ladder of sizes the error is at most its bound; of large calls in samples",
     {"O39", "O40", "O41", "O42", "O43", "O44", "O45", "tile edges", "32-bit offsets"},
     arrange_size,
     every_size,
     Passes::either,
     Needs::nothing,
     true,
     Sizes::ladder},
    {"P58",
     "every_router_size",
     {Component::aux_loss, Component::bias_update, Component::fake_balanced_gate, Component::metrics},
     PropertyClass::bounded,
     "the same for the parts of the router",
     {"O39", "O41", "block edges"},
     arrange_size,
     every_size,
     Passes::either,
     Needs::nothing,
     true,
     Sizes::ladder},
};

}  // namespace

std::span<const Property> size_properties() { return kSizeProperties; }

}  // namespace moeref
