// Descriptors: their lines, their repair, and that neighbours share values.
#include "moeref/descriptor.hpp"

#include <gtest/gtest.h>

#include <set>

#include "moeref/error.hpp"
#include "moeref/property.hpp"
#include "moeref/signature.hpp"

namespace moeref {
namespace {

TEST(Descriptor, LineRoundTrips) {
  for (const Component component : kComponents)
    for (std::uint64_t bits = 0; bits < 200; ++bits) {
      const Descriptor d = draw_descriptor(component, bits);
      EXPECT_EQ(parse_descriptor(to_line(d)), d) << to_line(d);
    }
}

TEST(Descriptor, RefusesWordsItDoesNotKnow) {
  EXPECT_THROW(parse_descriptor(""), InputError);
  EXPECT_THROW(parse_descriptor("router T=3"), InputError);
  EXPECT_THROW(parse_descriptor("gate T"), InputError);
  EXPECT_THROW(parse_descriptor("gate T=three"), InputError);
  EXPECT_THROW(parse_descriptor("gate colour=red"), InputError);
  EXPECT_THROW(parse_descriptor("gate score=softmin"), InputError);
}

TEST(Descriptor, RepairedStaysAndGivesAValidCall) {
  for (const Component component : kComponents)
    for (std::uint64_t bits = 0; bits < 300; ++bits) {
      const Descriptor d = draw_descriptor(component, bits);
      Descriptor again = d;
      repair(again);
      EXPECT_EQ(again, d) << to_line(d);
      EXPECT_NO_THROW(check_inputs(make_call(d, true))) << to_line(d);
    }
}

TEST(Descriptor, EveryPropertyArrangesOnceAndForAll) {
  for (const Property& property : properties())
    for (const Component component : property.components)
      for (std::uint64_t bits = 0; bits < 100; ++bits) {
        Descriptor d = draw_descriptor(component, bits);
        prepare(property, d);
        Descriptor again = d;
        prepare(property, again);
        EXPECT_EQ(again, d) << property.name << ": " << to_line(d) << " becomes " << to_line(again);
      }
}

TEST(Descriptor, NamesOfPropertiesAreUnique) {
  std::set<std::string_view> names;
  for (const Property& property : properties())
    EXPECT_TRUE(names.insert(property.name).second) << property.name;
}

TEST(Descriptor, FewerTokensKeepTheOthersValues) {
  for (const char* line :
       {"gate T=9 E=6 k=2 D=8 logits=rough seed=5", "gate T=9 E=6 k=2 D=8 router_bias=true seed=5",
        "experts T=9 E=6 k=2 D=8 I=3 values=rough seed=5"}) {
    Descriptor d = parse_descriptor(line);
    const Tensor many = make_call(d).tensors.at("inputs/x");
    d.T = 4;
    const Tensor few = make_call(d).tensors.at("inputs/x");
    for (std::int64_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i], many[i]);
  }
}

TEST(Descriptor, FewerExpertsKeepTheOthersValues) {
  Descriptor d = parse_descriptor("gate T=3 E=16 k=2 D=16 seed=5");
  const Call many = make_call(d);
  d.E = 7;
  const Call few = make_call(d);
  EXPECT_EQ(few.tensors.at("inputs/x").shape(), many.tensors.at("inputs/x").shape());
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t e = 0; e < 7; ++e)
      EXPECT_EQ(few.tensors.at("inputs/x")[t * 16 + e], many.tensors.at("inputs/x")[t * 16 + e]);
}

TEST(Descriptor, LevelsOfATokenAreAllDifferent) {
  for (const std::int64_t experts : {3, 17, 18, 40}) {
    Descriptor d;
    d.T = 20;
    d.E = d.D = experts;
    const Tensor x = make_call(d).tensors.at("inputs/x");
    for (std::int64_t t = 0; t < d.T; ++t) {
      std::set<double> levels;
      for (std::int64_t e = 0; e < experts; ++e) levels.insert(x[t * experts + e]);
      EXPECT_EQ(levels.size(), static_cast<std::size_t>(experts));
    }
  }
}

TEST(Descriptor, ShrinksEnd) {
  for (std::uint64_t bits = 0; bits < 50; ++bits) {
    Descriptor d = draw_descriptor(Component::gate, bits, {.ladder_percent = 0});
    int steps = 0;
    for (std::vector<Descriptor> next = shrinks(d, repair); !next.empty(); next = shrinks(d, repair)) {
      d = next.back();
      ASSERT_LT(++steps, 1000) << to_line(d);
    }
    EXPECT_TRUE(to_line(d) == "gate T=0 seed=0" || to_line(d) == "gate seed=0") << to_line(d);
  }
}

TEST(Descriptor, ConfigFieldsShrinkToTheirDefaultsAtOnce) {
  Descriptor d;
  d.component = Component::aux_loss;
  d.T = 8;
  d.config.aux_loss_sequences = 4;
  std::set<std::int64_t> proposed;
  for (const Descriptor& smaller : shrinks(d, [](Descriptor&) {}))
    proposed.insert(smaller.config.aux_loss_sequences);
  EXPECT_EQ(proposed, (std::set<std::int64_t>{1, 4}));
}

}  // namespace
}  // namespace moeref
