// Experts and MLPs once more, in plain double arithmetic, with parts that a mutant may replace.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"
#include "property_tests/layer/plain_quantiser.hpp"

namespace moeref {

/// The activation as SPEC 5 has it: of gate and up, or of up alone where there is no gate.
double activation_value(const MoEConfig& config, double gate, double up);
/// Its derivatives by gate and by up.
std::pair<double, double> activation_slope(const MoEConfig& config, double gate, double up);
double plain_sigmoid(double z);

/// Rows [rows, width] that a product multiplies: x, or one hidden row.
struct PlainRows {
  const std::vector<double>& values;
  std::int64_t width;
  bool hidden;

  std::int64_t count() const { return static_cast<std::int64_t>(values.size()) / width; }
  std::int64_t groups(std::int64_t group) const { return (width + group - 1) / group; }
  std::vector<double> row(std::int64_t index) const;
  /// The largest absolute value of a group of a row.
  double largest(std::int64_t row, std::int64_t index, std::int64_t group) const;
};
/// One row as the numbers code * scale, as SPEC 11.1 has it.
std::vector<double> plain_quantised(const ActivationFormatFacts& format, const PlainRows& rows,
                                    std::int64_t row);

struct ExpertsParts {
  double (*value)(const MoEConfig&, double gate, double up) = activation_value;
  std::pair<double, double> (*slope)(const MoEConfig&, double gate, double up) = activation_slope;
  /// A product added to a forward sum of the call's type.
  double (*add)(DType type, double sum, double product) = nullptr;
  /// Of calls with an activation_format.
  std::vector<double> (*quantised)(const ActivationFormatFacts&, const PlainRows&,
                                   std::int64_t row) = plain_quantised;
  /// The sum of the products of a quantised row with a column of weights.
  double (*dot)(std::span<const double> row, std::span<const double> column) = nullptr;
  bool weight_on_input = false;  ///< the routing weight multiplies x in place of the activation
};

/// Outputs and gradients of an experts or MLP call.
NamedTensors plain_experts(const Call& call, const ExpertsParts& parts);

/// The sound results plus what the parts change in the plain ones; a call of another component as it is.
NamedTensors with_parts(Implementation& sound, const Call& call, const ExpertsParts& parts);

}  // namespace moeref
