// Prints property_tests/README.md from the property tables: properties_page > property_tests/README.md
#include <algorithm>
#include <iostream>
#include <string>

#include "moeref/property.hpp"

namespace moeref {
namespace {

constexpr const char* kIntroduction = R"page(# Properties

Statements that hold for every correct implementation of a component. `moeref check --port PORT` draws layers and inputs, shows
each property many of them, shrinks what fails to the smallest case and prints the line that repeats it.

Where to begin:

| folder | what lives there |
|---|---|
| `descriptor/` | a call as one line of text: how it is drawn, repaired, shrunk and made into tensors |
| `suite/` | how properties run: the runner, the answers they ask for, the kinds of input that a run must have seen |
| `router/`, `layer/` | the properties, one file per subject, each with a table of its own |
| `mutants/` | implementations that are wrong in one way each, and what golden files and properties say of them (`moeref mutants`) |

A property is one entry of a table: its class (exact: bit for bit; bounded: within the error bounds of both sides; statistical: with a
computed false-alarm rate), its precondition, its check, and the bugs that it must catch. To run them on an implementation of
your own, link `moeref::properties` and call `run_property` (`moeref/runner.hpp`).

Sizes are a dimension of their own. Some of the small cases, and all of `every_size`, have extents of a ladder: b - 1, b and b + 1 for
b = 8, 16, 32, 64, 96, 128, ..., 65536, rows per expert among them, experts and slots of published models, and single long
dimensions, as far as a budget of multiply-adds allows. Shrinking goes down the ladder and then to the smallest extent that fails;
the report names it ("wrong from 257 experts on (256 pass)"). `moeref check --scale kernel` and `--scale full` run the properties that
are for it on layers of published width, which are judged by samples (reference_cpu/VERDICTS.md, "Calls that are too large").

This page is made from the tables: `build/property_tests/properties_page > property_tests/README.md`; a test compares the two.

)page";

constexpr const char* kPasses =
    R"(Passes: `forward` asks for outputs alone. `either` asks for gradients too, and runs on outputs where the implementation gives no
gradients or `--forward-only` says so. `backward` says nothing without gradients. `judged`: whole gradients are compared with the
formulas or with differences of the forward pass, in every precision or the widest one that the implementation has; a run in which no such property
passed on a component has not judged its gradients, and is no pass. Their number:

)";

/// How many properties each kind of run has.
std::string counts() {
  const auto of = [](moeref::Passes passes) {
    return std::to_string(std::ranges::count(properties(), passes, &Property::passes));
  };
  return "| properties | forward | either | backward |\n|---|---|---|---|\n| " +
         std::to_string(properties().size()) + " | " + of(Passes::forward) + " | " + of(Passes::either) +
         " | " + of(Passes::backward) + " |\n\n";
}

std::string row(const Property& property) {
  std::string components, kills;
  for (const Component component : property.components)
    components += (components.empty() ? "" : ", ") + std::string(name(component));
  for (const std::string_view bug : property.kills) kills += (kills.empty() ? "" : ", ") + std::string(bug);
  std::string text = "| " + std::string(property.id) + " | `" + std::string(property.name) + "` | " +
                     components + " | " + std::string(name(property.property_class)) + " | " +
                     std::string(name(property.passes)) + (property.judges_gradients ? ", judged" : "") +
                     " | ";
  // A bar inside of a cell would end it.
  for (const char c : std::string(property.checks) + "\x01" + kills)
    if (c == '\x01')
      text += " | ";
    else if (c == '|')
      text += "\\|";
    else
      text += c;
  return text + " |\n";
}

}  // namespace
}  // namespace moeref

int main() {
  std::cout << moeref::kIntroduction << moeref::kPasses << moeref::counts()
            << "| id | property | components | class | passes | what it checks | bugs it catches |\n"
            << "|---|---|---|---|---|---|---|\n";
  for (const moeref::Property& property : moeref::properties()) std::cout << moeref::row(property);
  return std::cout.flush() ? 0 : 1;
}
