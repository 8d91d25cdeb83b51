// What properties are written with: answers of an implementation with the error bounds that it is entitled
// to, and comparisons that throw the finding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/property.hpp"
#include "moeref/reference.hpp"

namespace moeref {

/// The call without cotangents, for outputs alone.
Call forward_alone(Call call);

/// The call as it is, or forward alone where the implementation computes that and no gradients.
Call as_offered(const Implementation& implementation, Call call);

/// The descriptor's call with gradients, as offered: what a property of Passes::either asks for.
Call full_call(const Implementation& implementation, const Descriptor& descriptor);

/// An implementation's results for one call.
///
/// Bounds come from evaluate() on the implementation's own routing: how far an honest implementation may be
/// from the exact value. Two answers of one implementation to calls with the same exact values differ by at
/// most both bounds.
class Answer {
 public:
  /// Throws NotSupported where the implementation says so, Failed where it refuses the call.
  Answer(Implementation& implementation, Call call);

  const Call& call() const { return call_; }
  const NamedTensors& results() const { return results_; }
  bool has(std::string_view tensor) const { return results_.contains(tensor); }

  /// Throws Failed if it is missing.
  const Tensor& operator[](std::string_view tensor) const;
  double at(std::string_view tensor, std::int64_t index) const { return (*this)[tensor][index]; }

  /// What the reference gives on the implementation's own routing; computed once.
  const Evaluation& reference() const;

  /// The error bound of an element; 0 where the value is exact.
  double bound(std::string_view tensor, std::int64_t index) const;

  /// Every honest implementation selects the same experts for that token. Always true without a selection.
  bool decided(std::int64_t token) const;
  bool all_decided() const;

  std::int64_t tokens() const;   ///< rows of outputs/indices
  std::int64_t slots() const;    ///< columns of outputs/indices
  std::int64_t experts() const;  ///< n_routed_experts

 private:
  Call call_;
  NamedTensors results_;
  mutable std::shared_ptr<Evaluation> evaluation_;
};

/// One slot of one token's routing. The order of slots carries no meaning, so they are compared by expert.
struct Slot {
  std::int64_t expert = 0;
  std::int64_t index = 0;  ///< row-major in outputs/weights
  double weight = 0.0, bound = 0.0;
};

/// The slots of a token, by ascending expert. Throws Failed for an id outside [0, E) or one that comes twice.
std::vector<Slot> slots_of(const Answer& answer, std::int64_t token);

[[noreturn]] void fail(Finding finding);

/// Value and expectation must be equal; NaN equals NaN.
void expect_equal(std::string_view tensor, std::int64_t index, double value, double expected,
                  std::string_view text);

/// |value - expected| <= bound; NaN is near NaN, an infinity near itself, and anything where the bound is not
/// finite.
void expect_near(std::string_view tensor, std::int64_t index, double value, double expected, double bound,
                 std::string_view text);

/// A whole tensor of two answers, element by element, within both bounds: a = factor * b. Shapes must agree.
void expect_same(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text,
                 double factor = 1.0);

/// Rows (slices of the first axis) of two answers: row ra of a is row rb of b.
void expect_same_row(const Answer& a, std::int64_t ra, const Answer& b, std::int64_t rb,
                     std::string_view tensor, std::string_view text);

/// The same bits.
void expect_identical(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text);

/// The routing of token ta of a is that of token tb of b, expert e of b being relabel[e] of a (empty = as it
/// is), and weights of a are factor times those of b. Returns false, having compared nothing, where either is
/// undecided.
bool expect_same_routing(const Answer& a, std::int64_t ta, const Answer& b, std::int64_t tb,
                         std::string_view text, std::span<const std::int64_t> relabel = {},
                         double factor = 1.0);

/// Throws Discarded when there were tokens and none of them could be compared.
void require_some(std::int64_t compared, std::int64_t of,
                  std::string_view why = "no token's selection is decided");

/// Permutation of n that the seed chooses.
std::vector<std::int64_t> permutation(std::uint64_t seed, std::int64_t n);

/// Slices of an axis reordered: slice i of the result is slice order[i] of the tensor; slices may be left out
/// or repeated.
Tensor take(const Tensor& tensor, std::size_t axis, std::span<const std::int64_t> order);

/// In place of the tensor there, if there is one.
void take_in(Call& call, std::string_view tensor, std::size_t axis, std::span<const std::int64_t> order);

/// Every element of a tensor scaled; exact for powers of two.
Tensor scaled(const Tensor& tensor, double factor);

/// Constant tensor.
Tensor filled(DType dtype, Shape shape, double value);

}  // namespace moeref
