#include <string>

#include "moeref/component.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {

static_assert(has_row_per_enumerator<kComponentFacts>());

std::string_view name(Component component) { return facts(component).name; }

Component parse_component(std::string_view text) {
  std::string want;
  for (const ComponentFacts& row : kComponentFacts) {
    if (row.name == text) return row.kind;
    want += " " + std::string(row.name);
  }
  throw InputError("unknown component '" + std::string(text) + "': want one of" + want);
}

}  // namespace moeref
