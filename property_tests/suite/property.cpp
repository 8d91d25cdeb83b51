#include "moeref/property.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "property_tests/suite/property_tables.hpp"

namespace moeref {

std::string_view name(PropertyClass property_class) {
  switch (property_class) {
    case PropertyClass::exact:
      return "exact";
    case PropertyClass::bounded:
      return "bounded";
    case PropertyClass::statistical:
      return "statistical";
  }
  return "";
}

std::string_view name(Passes passes) {
  switch (passes) {
    case Passes::forward:
      return "forward";
    case Passes::either:
      return "either";
    case Passes::backward:
      return "backward";
  }
  return "";
}

bool declares(const Declarations& declared, Needs needs) {
  switch (needs) {
    case Needs::nothing:
      return true;
    case Needs::lowest_id_first:
      return declared.lowest_id_first;
    case Needs::repeatable:
      return declared.repeatable;
    case Needs::batch_invariant:
      return declared.batch_invariant;
    case Needs::rounding:
      return declared.rounding;
    case Needs::counter_generator:
      return declared.counter_generator;
  }
  return false;
}

std::string_view lack(Needs needs) {
  switch (needs) {
    case Needs::nothing:
      return "";
    case Needs::lowest_id_first:
      return "it does not declare that it takes the lowest ids among equal scores";
    case Needs::repeatable:
      return "it does not declare that a call gives the same bits again";
    case Needs::batch_invariant:
      return "it does not declare that a token gives the same bits in any batch";
    case Needs::rounding:
      return "it does not declare that it computes in the call's dtype";
    case Needs::counter_generator:
      return "it does not declare the reference's generator of initial values";
  }
  return "";
}

std::string to_string(const Finding& f) {
  if (f.tensor.empty()) return f.text;
  if (f.index < 0 && f.value == f.expected) return fmt::format("{}: {}", f.tensor, f.text);
  const std::string tolerance = f.bound > 0.0 ? fmt::format(" +- {:.3g}", f.bound) : "";
  const std::string element = f.index < 0 ? f.tensor : fmt::format("{}[{}]", f.tensor, f.index);
  return fmt::format("{} is {:.9g}, want {:.9g}{}: {}", element, f.value, f.expected, tolerance, f.text);
}

namespace {

/// Counts the calls that a check makes of the implementation.
class Counted final : public Implementation {
 public:
  explicit Counted(Implementation& counted) : counted_(counted) {}
  std::string name() const override { return counted_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override {
    return counted_.unsupported(call);
  }
  NamedTensors run(const Call& call) override {
    ++calls;
    return counted_.run(call);
  }

  int calls = 0;

 private:
  Implementation& counted_;
};

}  // namespace

std::string_view name(Outcome::Kind kind) {
  switch (kind) {
    case Outcome::Kind::passed:
      return "PASS";
    case Outcome::Kind::discarded:
      return "DISCARDED";
    case Outcome::Kind::not_supported:
      return "NOT_SUPPORTED";
    case Outcome::Kind::failed:
      break;
  }
  return "FAIL";
}

Outcome examine(const Property& property, Implementation& implementation, const Descriptor& descriptor) {
  try {
    Counted counted(implementation);
    property.check(counted, descriptor);
    // A check that asked nothing has shown nothing.
    if (counted.calls == 0) return {Outcome::Kind::discarded, "there is nothing to ask of this call", {}};
    return {};
  } catch (const Discarded& discarded) {
    return {Outcome::Kind::discarded, discarded.what(), {}};
  } catch (const NotSupported& reason) {
    return {Outcome::Kind::not_supported, reason.what(), {}};
  } catch (const Failed& failed) {
    return {Outcome::Kind::failed, "", failed.finding};
  } catch (const std::exception& error) {
    return {Outcome::Kind::failed, "", {"", -1, 0.0, 0.0, 0.0, std::string("threw: ") + error.what()}};
  }
}

void prepare(const Property& property, Descriptor& descriptor) {
  repair(descriptor);
  // The repair may raise what the arrangement lowered, and the other way round, a few times at most.
  for (int round = 0; property.arrange && round < 4; ++round) {
    const Descriptor before = descriptor;
    property.arrange(descriptor);
    repair(descriptor);
    if (descriptor == before) return;
  }
}

const std::vector<Property>& properties() {
  static const std::vector<Property> all = [] {
    std::vector<Property> out;
    for (const PropertyTable table : kPropertyTables) {
      const std::span<const Property> part = table();
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }();
  return all;
}

const Property* find_property(std::string_view id_or_name) {
  const auto& all = properties();
  const auto found = std::ranges::find_if(
      all, [&](const Property& p) { return p.id == id_or_name || p.name == id_or_name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace moeref
