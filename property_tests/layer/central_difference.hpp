// Central differences of a sum of terms along one direction, in any precision: which steps there are, and how
// far a difference may be from the derivative.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "moeref/dtype.hpp"
#include "moeref/tensor.hpp"

namespace moeref {

/// The steps of one precision, `shortest` and its doubles. Rounding puts noise / step on a difference and the
/// curvature step^2, so the narrower the type, the longer its steps.
struct Steps {
  DType dtype;
  double shortest;
  int count;
  double grid;     ///< values and steps are multiples of it, so that the dtype holds their sums; 0 = as drawn
  double most;     ///< largest |value + step| that is held exactly so
  double telling;  ///< a difference tells something where its error is at most this share of the slope
  bool along_gradient;  ///< the direction has the gradient's signs, so that slopes add up to more than noise
};

/// One row per precision, the widest first.
std::span<const Steps> precision_steps();

struct Probe {
  std::vector<double> terms;
  double noise = 0.0;  ///< how far rounding may have moved their sum
};

struct Difference {
  double slope = 0.0;
  double error = 0.0;  ///< how far it may be from the derivative
};

/// The difference with the smallest error among those at the steps. `at` are the terms at step 0.
Difference central_difference(const Steps& steps, const std::vector<double>& at,
                              const std::function<Probe(double step)>& probe);

/// The tensor with every value at the nearest multiple of the grid.
Tensor on_grid(const Tensor& tensor, const Steps& steps);

/// Normal numbers of the shape of `values`, such that values + step * direction is exact at every step.
/// `gradient` gives the signs where the precision asks for them; half of the elements then stay where they
/// are.
Tensor direction(const Steps& steps, const Tensor& values, const Tensor& gradient,
                 std::span<const double> normals);

}  // namespace moeref
