// Properties: statements that hold for every correct implementation of a component, checked through the
// implementation interface alone, and the table of them all.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/descriptor.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

enum class PropertyClass : std::uint8_t {
  exact,        ///< bitwise on exact-mode data: ids, counts, zeros, untouched rows
  bounded,      ///< within the error bounds of both sides
  statistical,  ///< with a computed false-alarm rate
};

std::string_view name(PropertyClass property_class);

/// What an implementation must declare before a property applies to it.
enum class Needs : std::uint8_t {
  nothing,
  lowest_id_first,    ///< among equal scores it selects the lowest ids
  repeatable,         ///< the same call gives the same bits
  batch_invariant,    ///< a token gives the same bits alone and in any batch
  rounding,           ///< it computes in the call's dtype, so that its results show that dtype's rounding
  counter_generator,  ///< initial values come from the reference's generator, one stream per expert
};

/// Which passes of an implementation a property asks for.
enum class Passes : std::uint8_t {
  forward,   ///< the forward pass alone
  either,    ///< gradients too, or the forward pass alone where the implementation gives none
  backward,  ///< gradients, without which it has nothing to say
};

std::string_view name(Passes passes);

/// What an implementation says of itself.
struct Declarations {
  bool lowest_id_first = false, repeatable = false, batch_invariant = false, rounding = false,
       counter_generator = false;
  /// The option of all its calls: its values are held within the bounds of such products.
  Float32Products float32_products = Float32Products::float32;
};

bool declares(const Declarations& declared, Needs needs);

/// "another tie rule is declared", ...: why a property that `needs` it does not apply.
std::string_view lack(Needs needs);

/// One violated equation.
struct Finding {
  std::string tensor;       ///< "outputs/weights"; empty where no tensor is to blame
  std::int64_t index = -1;  ///< row-major, -1 where there is none
  double value = 0.0, expected = 0.0, bound = 0.0;
  std::string text;  ///< in words, with what was changed
};

/// "outputs/weights[3] is 0.5, want 0.25 +- 1e-07: ...".
std::string to_string(const Finding& finding);

struct Outcome {
  enum class Kind : std::uint8_t { passed, discarded, not_supported, failed };
  Kind kind = Kind::passed;
  std::string reason;  ///< why it was discarded or is not supported
  Finding finding;
};

/// "PASS", "DISCARDED", "NOT_SUPPORTED" or "FAIL".
std::string_view name(Outcome::Kind kind);

struct Property {
  std::string_view id;  ///< "P1": the row of the published table; F for the balanced gate, L for load-balance
                        ///< metrics, C for conventions
  std::string_view name;  ///< "token_permutation", unique
  std::vector<Component> components;
  PropertyClass property_class = PropertyClass::exact;
  std::string_view checks;              ///< one line
  std::vector<std::string_view> kills;  ///< bugs of the catalogue ("O5"), or words
  /// Makes any descriptor of its components meet the precondition, so that little is discarded. Idempotent,
  /// and may only set fields that the repair leaves alone. Null = any will do.
  void (*arrange)(Descriptor&) = nullptr;
  /// Returns if the property holds; throws Discarded, NotSupported or Failed (evidence.hpp has functions that
  /// do). A pure function of what the implementation answers and the descriptor.
  void (*check)(Implementation&, const Descriptor&) = nullptr;
  Passes passes = Passes::forward;
  Needs needs = Needs::nothing;
  /// It compares whole gradients with the formulas or with differences of the forward pass. The other
  /// properties compare gradients with gradients of the same implementation.
  bool judges_gradients = false;
  Sizes sizes = Sizes::usual;
};

/// The three ways in which a check ends other than by returning.
struct Discarded : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct NotSupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Failed : std::runtime_error {
  explicit Failed(Finding what) : std::runtime_error(to_string(what)), finding(std::move(what)) {}
  Finding finding;
};

/// One case. Any other exception of the check or the implementation is a failure too.
Outcome examine(const Property& property, Implementation& implementation, const Descriptor& descriptor);

/// Arranged for the property and repaired, until neither changes anything.
void prepare(const Property& property, Descriptor& descriptor);

/// Every property, component by component.
const std::vector<Property>& properties();

/// By id or name. Null if there is none; several rows may share an id, then the first.
const Property* find_property(std::string_view id_or_name);

}  // namespace moeref
