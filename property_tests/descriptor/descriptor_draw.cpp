// Drawing and shrinking descriptors.
#include <algorithm>
#include <array>

#include "property_tests/descriptor/choices.hpp"
#include "property_tests/descriptor/descriptor_fields.hpp"
#include "property_tests/descriptor/extents.hpp"

namespace moeref {
namespace {

void draw_sizes(Descriptor& d, Choices& draw) {
  const std::int64_t form = draw.between(0, 99);
  d.T = form < 6 ? 0 : form < 15 ? 1 : form < 85 ? draw.between(2, 9) : draw.between(10, 37);
  d.E = draw.chance(8) ? 1 : draw.chance(85) ? draw.between(2, 12) : draw.between(13, 40);
  const std::int64_t slots = draw.between(0, 99);
  d.k = slots < 25   ? 1
        : slots < 37 ? d.E
        : slots < 50 ? std::max<std::int64_t>(1, d.E - 1)
                     : draw.between(1, d.E);
  d.D = draw.chance(90) ? draw.between(1, 12) : draw.between(13, 70);
  d.I = draw.chance(90) ? draw.between(1, 8) : draw.between(9, 40);
  if (draw.chance(35)) {
    d.groups = draw.of<std::int64_t>({2, 2, 3, 4});
    d.E = d.groups * draw.between(2, 5);
    d.limited = draw.between(1, d.groups);
    d.k = draw.between(1, std::min<std::int64_t>(d.E, d.limited * (d.E / d.groups)));
  }
  if (draw.chance(35)) {
    d.ranks = draw.of<std::int64_t>({2, 2, 3, 4, 8});
    d.spread = draw.of({Spread::even, Spread::uneven, Spread::idle});
    d.all_to_all = draw.chance(50);
    if (draw.chance(70)) d.E = std::min<std::int64_t>(d.ranks * draw.between(1, 4), 24);
    d.k = std::min(d.k, d.E);
  }
  d.batch = draw.of<std::int64_t>({1, 1, 2, 3});
  d.steps = draw.between(1, 3);
  d.micro = draw.between(1, 3);
}

void draw_gate(Descriptor& d, Choices& draw) {
  d.score = draw.kind_of(kScoreFuncs, 2);
  d.before_topk = draw.chance(50);
  d.norm = draw.chance(50);
  d.router_bias = draw.chance(30);
  d.weights_fp32 = draw.chance(20);
  d.scale = draw.of({1.0, 1.0, 2.0, 0.5, 2.5});
  d.aux = draw.chance(60) ? draw.of({0.5, 0.001, 0.03125}) : 0.0;
  d.correction = draw.chance(40) ? Correction::none
                                 : draw.of({Correction::zero, Correction::equal, Correction::normal,
                                            Correction::normal, Correction::negative});
  d.factor = d.has_correction() && draw.chance(50) ? 0x1p-10 : 0.0;
  d.biased_weights = draw.chance(12);
  if (draw.chance(15)) d.precision = draw.of({DType::float32, DType::float32, DType::float64});
  d.logits =
      draw.of({Logits::levels, Logits::levels, Logits::levels, Logits::rough, Logits::rough, Logits::whole,
               Logits::ties, Logits::equal, Logits::large, Logits::negative, Logits::skewed});
  d.eval = draw.chance(8);
  d.frozen = draw.chance(8);
}

void draw_experts(Descriptor& d, Choices& draw) {
  d.activation = draw.kind_of(first_rows<kDocumentedActivations>(kActivations), 1);
  d.expert_bias = draw.chance(40);
  d.after_down = draw.chance(25);
  d.limit = draw.chance(50) ? draw.of({0.5, 2.0, 7.0}) : 0.0;
  d.ids = draw.of({Ids::distinct, Ids::distinct, Ids::skewed, Ids::same, Ids::some_empty, Ids::round_robin,
                   Ids::last_expert, Ids::duplicates, Ids::absent_slots});
}

void draw_layer(Descriptor& d, Choices& draw) {
  if (draw.chance(40)) {
    d.shared = draw.between(1, 2);
    d.shared_gate = draw.chance(50);
    d.shared_relu2 = draw.chance(30);
  }
  if (draw.chance(20)) d.latent = draw.between(1, 6);
  if (draw.chance(15)) {
    d.fake_gate = true;
    if (draw.chance(50)) d.noise = draw.of({0.25, 1.0});
  }
  if (draw.chance(30)) d.rank_kind = RankKind::context;
}

void draw_config(Descriptor& d, Choices& draw, const SizeRange& range) {
  const auto allowed = [&](const auto& row) {
    return !row.convention || !range.conventions ||
           std::ranges::find(*range.conventions, row.name) != range.conventions->end();
  };
  visit_config_fields(d.config, [&](const auto& row, auto& member) {
    if constexpr (std::remove_cvref_t<decltype(row)>::drawn)
      if (reads(row.readers, d.component) && draw.chance(row.draw.percent)) {
        const auto value = row.draw.values[static_cast<std::size_t>(
            draw.between(0, static_cast<std::int64_t>(row.draw.values.size()) - 1))];
        if (allowed(row)) member = value;
      }
  });
}

/// What shrinking lowers: a size counts its value, a feature that is not at its default counts 2, the seed a
/// little.
double complexity(const Descriptor& d) {
  const Descriptor defaults;
  double sum = static_cast<double>(std::min<std::uint64_t>(d.seed, 1000)) / 2000.0;
  visit_fields(d, [&](std::string_view field, const auto& member, FieldKind kind) {
    visit_fields(defaults, [&](std::string_view other, const auto& fallback, FieldKind) {
      if constexpr (std::is_same_v<decltype(member), decltype(fallback)>) {
        if (field != other || member == fallback) return;
        if constexpr (std::is_same_v<decltype(member), const std::int64_t&>)
          sum += 4.0 * static_cast<double>(member);
        else
          sum += kind == FieldKind::feature ? 2.0 : 4.0;
      }
    });
  });
  return sum;
}

}  // namespace

Descriptor draw_descriptor(Component component, std::uint64_t bits, const SizeRange& range) {
  Choices draw(bits);
  Descriptor d;
  d.component = component;
  draw_sizes(d, draw);
  draw_gate(d, draw);
  draw_experts(d, draw);
  if (component == Component::moe) draw_layer(d, draw);
  if (component == Component::fake_balanced_gate) {
    d.noise = draw.of({0.0, 0.0, 0.125, 0.5, 1.0});
    d.skip = draw.chance(40) ? draw.between(1, 3) : 0;
  }
  d.dtype = draw.of(
      {DType::float32, DType::float32, DType::float32, DType::float64, DType::bfloat16, DType::float16});
  d.values = draw.of({Values::exact, Values::exact, Values::rough, Values::loud});
  const std::int64_t form = draw.between(0, 99);
  d.mask = form < 40   ? Mask::absent
           : form < 48 ? Mask::all
           : form < 80 ? Mask::random
                       : draw.of({Mask::none, Mask::first, Mask::last, Mask::every_second, Mask::all_but});
  d.loads = draw.of({Loads::random, Loads::mixed, Loads::zero, Loads::equal, Loads::single});
  d.seed = draw.bits() >> 44;   // short enough to read
  draw_config(d, draw, range);  // last, so that one more field leaves all others as they were drawn
  draw_extents(d, bits, range);
  repair(d);
  return d;
}

std::vector<Descriptor> shrinks(const Descriptor& descriptor,
                                const std::function<void(Descriptor&)>& prepare) {
  std::vector<Descriptor> out;
  const double now = complexity(descriptor);
  const auto propose = [&](Descriptor candidate) {
    prepare(candidate);
    if (complexity(candidate) < now) out.push_back(candidate);
  };
  const Descriptor defaults;
  // By number of the field: a copy's field is found again by walking the table.
  int field = 0;
  visit_fields(descriptor, [&](std::string_view, const auto& member, FieldKind kind) {
    const int wanted = field++;
    if (kind == FieldKind::declared) return;
    using Member = std::remove_cvref_t<decltype(member)>;
    const auto with = [&](const Member& value) {
      Descriptor candidate = descriptor;
      int at = 0;
      visit_fields(candidate, [&](std::string_view, auto& slot, FieldKind) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(slot)>, Member>)
          if (at == wanted) slot = value;
        ++at;
      });
      propose(candidate);
    };
    if constexpr (std::is_same_v<Member, std::int64_t>) {
      if (kind == FieldKind::size) {
        for (const std::int64_t smaller : smaller_extents(member)) with(smaller);
        return;
      }
    }
    int at = 0;
    visit_fields(defaults, [&](std::string_view, const auto& fallback, FieldKind) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(fallback)>, Member>)
        if (at == wanted && !(fallback == member)) with(fallback);
      ++at;
    });
  });
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, descriptor.seed / 2}) {
    Descriptor candidate = descriptor;
    candidate.seed = seed;
    if (seed < descriptor.seed) propose(candidate);
  }
  return out;
}

}  // namespace moeref
