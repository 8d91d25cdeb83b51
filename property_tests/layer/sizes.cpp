// Every component at the sizes where kernels change their path, in small calls and in those of real layers.
#include <algorithm>
#include <string>
#include <vector>

#include "golden/catalogue/presets.hpp"
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

/// Numbers of experts and slots that kernels have paths of their own for: those of published models, powers
/// of two, and numbers beyond the masks and warps that groups, slots and experts are kept in.
struct RoutedSizes {
  std::int64_t experts = 0, slots = 0, groups = 1, limited = 1;
};

std::vector<RoutedSizes> make_routed_sizes() {
  std::vector<RoutedSizes> out{{64, 17},       {256, 64},       {512, 24},      {576, 6},
                               {768, 8},       {1024, 32},      {80, 4, 40, 3}, {128, 4, 64, 2},
                               {160, 6, 8, 3}, {256, 8, 32, 4}, {384, 8},       {320, 3, 10, 2}};
  for (const Preset& preset : presets())
    out.push_back({preset.full.n_routed_experts, preset.full.n_activated_experts, preset.full.n_expert_groups,
                   preset.full.n_limited_groups});
  for (std::int64_t experts = 8; experts <= 1024; experts *= 2)
    for (const std::int64_t slots : {1, 2, 4, 6, 8}) out.push_back({experts, slots});
  return out;
}

/// Of that list in a case, from a place that the seed chooses.
constexpr std::size_t kSizesPerCase = 10;

/// Each with both kinds of scores, since normalisation and groups show in sigmoids, and in the softmax what
/// it is over.
void set_scores(Descriptor& d, bool sigmoid) {
  d.score = sigmoid ? ScoreFunc::sigmoid : ScoreFunc::softmax;
  d.correction = sigmoid ? Correction::normal : Correction::none;
}

void routed_sizes(Implementation& impl, const Descriptor& d) {
  static const std::vector<RoutedSizes> all = make_routed_sizes();
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;
  for (std::size_t i = 0; i < 2 * kSizesPerCase; ++i) {
    const RoutedSizes& sizes = all[(d.seed * kSizesPerCase + i / 2) % all.size()];
    Descriptor one = d;
    set_scores(one, i % 2 == 1);
    one.E = sizes.experts;
    one.k = sizes.slots;
    one.groups = sizes.groups;
    one.limited = sizes.limited;
    repair(one);
    try {
      const Answer answer(impl, full_call(impl, one));
      require_pass(judge(answer.call(), answer.results(), options), one);
    } catch (Failed& failed) {
      Finding finding = failed.finding;
      finding.text = std::to_string(one.E) + " experts, " + std::to_string(one.k) + " slots, " +
                     std::to_string(one.groups) + " groups: " + finding.text;
      fail(finding);
    }
  }
}

/// A few tokens, and a gate of which each feature shows when a path leaves it out.
void arrange_routed_sizes(Descriptor& d) {
  arrange_size(d);
  d.fake_gate = d.replay = d.biased_weights = false;
  d.T = std::clamp<std::int64_t>(d.T, 1, 6);
  d.D = std::min<std::int64_t>(d.D, 12);
  d.I = std::min<std::int64_t>(d.I, 2);
  d.latent = std::min<std::int64_t>(d.latent, 4);
  d.E = d.k = d.groups = d.limited = d.ranks = d.batch = 1;
  if (d.logits != Logits::whole) d.logits = Logits::rough;
  set_scores(d, true);
  d.factor = 0.0;
  d.before_topk = false;
  d.norm = d.seed % 8 != 7;
  if (d.scale == 1.0) d.scale = 2.5;
}

const Property kSizeProperties[] = {
    {"P58",
     "routed_sizes",
     {Component::gate, Component::moe},
     PropertyClass::bounded,
     "the error is at most its bound for the experts, slots and groups that published models and kernels "
     "have",
     {"O39", "O40", "paths for some sizes alone", "masks of 32 bits"},
     arrange_routed_sizes,
     routed_sizes,
     Passes::either,
     Needs::nothing,
     true},
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
