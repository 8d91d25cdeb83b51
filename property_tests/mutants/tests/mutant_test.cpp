// The tables of mutants: what every row must say.
#include "property_tests/mutants/mutant.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "golden/catalogue/recipes.hpp"
#include "moeref/property.hpp"

namespace moeref {
namespace {

TEST(Mutants, EveryRowIsWhole) {
  std::set<std::string_view> names;
  for (const Mutant& mutant : all_mutants()) {
    SCOPED_TRACE(mutant.name);
    EXPECT_TRUE(names.insert(mutant.name).second) << "comes twice";
    EXPECT_FALSE(mutant.does.empty());
    EXPECT_FALSE(mutant.components.empty() && mutant.cannot.empty());
    // Something to run, or the reason why there is nothing.
    EXPECT_EQ((mutant.run != nullptr) + (mutant.make != nullptr), mutant.cannot.empty() ? 1 : 0);
    EXPECT_EQ(find_mutant(mutant.name), &mutant);
  }
}

TEST(Mutants, NamePropertiesOfTheirComponents) {
  for (const Mutant& mutant : all_mutants())
    for (const std::string_view word : words(mutant.property)) {
      const Property* property = find_property(word);
      ASSERT_NE(property, nullptr) << mutant.name << ": " << word;
      EXPECT_EQ(property->name, word);
      EXPECT_NE(std::ranges::find_first_of(property->components, mutant.components),
                property->components.end())
          << mutant.name << ": " << word;
    }
}

TEST(Mutants, NameBugsOfTheNotes) {
  for (const Mutant& mutant : all_mutants())
    EXPECT_TRUE(mutant.bug.empty() || find_bug(mutant.bug)) << mutant.name << ": " << mutant.bug;
}

/// A property that no mutant makes fail has not been seen to work.
TEST(Mutants, EveryPropertyHasOne) {
  std::set<std::string_view> named;
  for (const Mutant& mutant : all_mutants())
    for (const std::string_view word : words(mutant.property)) named.insert(word);
  for (const Property& property : properties())
    // Mutants are made of the reference, which is itself the bug of this one: see honest_port_test.cpp.
    EXPECT_TRUE(named.contains(property.name) || property.needs == Needs::rounding) << property.name;
}

TEST(Mutants, WordsOfAList) {
  EXPECT_TRUE(words("").empty());
  EXPECT_EQ(words("a"), std::vector<std::string_view>{"a"});
  EXPECT_EQ(words("a bc"), (std::vector<std::string_view>{"a", "bc"}));
}

TEST(Mutants, AStarStandsForTheRestOfAName) {
  Mutant mutant;
  mutant.first_wrong = "outputs/y grads/gate.*";
  EXPECT_TRUE(names_rightly(mutant, "outputs/y"));
  EXPECT_TRUE(names_rightly(mutant, "grads/gate.weight"));
  EXPECT_FALSE(names_rightly(mutant, "outputs/y2"));
  EXPECT_FALSE(names_rightly(mutant, "grads/x"));
}

}  // namespace
}  // namespace moeref
