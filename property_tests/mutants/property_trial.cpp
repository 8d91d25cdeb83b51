#include "property_tests/mutants/property_trial.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "moeref/runner.hpp"
#include "property_tests/mutants/sound_port.hpp"
#include "property_tests/suite/draw_case.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {
namespace {

/// As the reference declares it: every property but those of rounding.
constexpr Declarations kDeclared{
    .lowest_id_first = true, .repeatable = true, .batch_invariant = true, .counter_generator = true};

std::vector<Component> common(const Mutant& mutant, const Property& property) {
  std::vector<Component> out;
  for (const Component c : property.components)
    if (std::ranges::find(mutant.components, c) != mutant.components.end()) out.push_back(c);
  return out;
}

Descriptor draw(const Property& property, const std::vector<Component>& components, std::uint64_t seed,
                int number) {
  const CounterGenerator bits(seed, property.name);
  const auto at = static_cast<std::uint64_t>(number);
  return draw_case(property, components[bits.integer(2 * at, components.size())], bits.bits(2 * at + 1));
}

/// The case once more from its line alone.
PropertyKill read_back(const Mutant& mutant, const Property& property, SoundPort& sound,
                       const Descriptor& descriptor, const Finding& finding) {
  PropertyKill kill{&property, to_line(descriptor), to_string(finding)};
  kill.repeats =
      repeat_case(property, *with_mutation(mutant, sound), kill.line).kind == Outcome::Kind::failed;
  const Outcome outcome = repeat_case(property, sound, kill.line);
  if (outcome.kind == Outcome::Kind::failed)
    throw std::logic_error("property " + std::string(property.name) +
                           " fails on the sound implementation: " + kill.line);
  return kill;
}

}  // namespace

std::optional<PropertyKill> try_property(const Mutant& mutant, const Property& property,
                                         const PropertyTrialOptions& options) {
  const std::vector<Component> components = common(mutant, property);
  if (components.empty() || !declares(kDeclared, property.needs)) return std::nullopt;
  SoundPort sound(options.only);
  const std::unique_ptr<Implementation> port = with_mutation(mutant, sound);
  std::optional<PropertyKill> unrepeated;
  for (int i = 0; i < options.cases; ++i) {
    const Descriptor drawn = draw(property, components, options.seed, i);
    const Outcome outcome = examine(property, *port, drawn);
    if (outcome.kind != Outcome::Kind::failed) continue;
    PropertyKill kill = read_back(mutant, property, sound, drawn, outcome.finding);
    kill.cases = i + 1;
    if (kill.repeats) return kill;
    if (!unrepeated) unrepeated = std::move(kill);
  }
  return unrepeated;
}

void try_properties(Trial& trial, const PropertyTrialOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const Mutant& mutant = *trial.mutant;
  const std::vector<std::string_view> named = words(mutant.property);
  const auto is_named = [&](const Property& p) { return std::ranges::find(named, p.name) != named.end(); };
  const auto run = [&](const Property& property) {
    if (std::optional<PropertyKill> kill = try_property(mutant, property, options))
      trial.kills.push_back(std::move(*kill));
    else if (is_named(property))
      trial.missed.push_back(property.name);
  };
  for (const Property& property : properties())
    if (is_named(property)) run(property);
  for (const Property& property : properties())
    if (!is_named(property) && (options.all || !trial.killed())) run(property);
  trial.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

}  // namespace moeref
