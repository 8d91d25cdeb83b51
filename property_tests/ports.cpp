#include "ports.hpp"

#include <array>
#include <string>

#include "moeref/error.hpp"
#include "moeref/reference.hpp"

namespace moeref {
namespace {

struct Factory {
  std::string_view name;
  Port (*make)();
};

constexpr std::array kFactories{
    Factory{"cpu",
            [] {
              return Port{std::make_unique<CpuReference>(),
                          {.lowest_id_first = true, .repeatable = true, .batch_invariant = true}};
            }},
};

}  // namespace

Port make_port(std::string_view name) {
  std::string names;
  for (const Factory& factory : kFactories) {
    if (factory.name == name) return factory.make();
    names += " " + std::string(factory.name);
  }
  throw InputError("there is no port '" + std::string(name) + "': want one of" + names);
}

}  // namespace moeref
