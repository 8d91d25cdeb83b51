// Experts that compute in a coarser type than the layer's (SPEC 10): what is rounded to it, and how, where
// nothing else rounds.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Quarters of a last place above 1, and where nearest-even puts them: below and above the middle, and ties
/// to either side.
struct Quarters {
  int above, rounded;
};
constexpr auto kQuarters = std::to_array<Quarters>({{3, 4}, {6, 8}, {1, 0}, {2, 0}, {5, 4}, {7, 8}});

class BesideOne {
 public:
  explicit BesideOne(const Descriptor& d)
      : quarter_(0.5 * unit_roundoff(*d.config.expert_compute_dtype)), first_(d.seed) {}

  double number(std::int64_t i) const { return 1.0 + quarter_ * at(i).above; }
  double rounded(std::int64_t i) const { return 1.0 + quarter_ * at(i).rounded; }
  /// What is left of a rounded number where another one takes 1 off.
  double rest(std::int64_t i) const { return quarter_ * at(i).rounded; }

 private:
  const Quarters& at(std::int64_t i) const {
    return kQuarters[(first_ + static_cast<std::uint64_t>(i)) % kQuarters.size()];
  }
  double quarter_;
  std::uint64_t first_;
};

enum class RoundedOperand : std::uint8_t { tokens, up, down, biases };
RoundedOperand rounded_operand_of(const Descriptor& d) { return static_cast<RoundedOperand>(d.seed / 4 % 4); }

double rectified(const Descriptor& d, double h) { return d.activation == ActivationKind::relu2 ? h * h : h; }

/// Products that round operands to TF32 hold the numbers of 16-bit types alone.
void require_exact_products(const Descriptor& d) {
  if (d.config.expert_compute_dtype == DType::float32 && d.products != Float32Products::float32)
    throw Discarded("products round the rounded operands");
}

/// The call with weights 1 and zeros elsewhere; f(expert) fills in.
template <typename Fill>
Call otherwise_zero(const Descriptor& d, bool backward, Fill&& fill) {
  Call call = make_call(d, backward);
  for (auto& [name, tensor] : call.tensors)
    if (is_floating(tensor.dtype()))
      tensor = filled(tensor.dtype(), tensor.shape(), name == "inputs/weights" ? 1.0 : 0.0);
  for (std::int64_t e = 0; e < d.E; ++e) fill(call.tensors, e);
  return call;
}

/// Every token (number(t), 1) meets the column (1, -1) of its expert's first hidden unit.
Call call_of_tokens(const Descriptor& d, const BesideOne& n, bool backward) {
  Call call = otherwise_zero(d, backward, [&](NamedTensors& tensors, std::int64_t e) {
    Tensor &up = tensors.at("params/gate_and_up_projs"), &down = tensors.at("params/down_projs");
    up.set(e * d.D * d.I, 1.0);
    up.set((e * d.D + 1) * d.I, -1.0);
    for (std::int64_t c = 0; c < d.D; ++c) down.set(e * d.I * d.D + c, 1.0);
  });
  Tensor& x = call.tensors.at("inputs/x");
  for (std::int64_t t = 0; t < d.T; ++t) {
    x.set(t * d.D, n.number(t));
    x.set(t * d.D + 1, 1.0);
  }
  return call;
}

void rounded_tokens(Implementation& impl, const Descriptor& d) {
  const BesideOne n(d);
  const Answer a(impl, call_of_tokens(d, n, false));
  for (std::int64_t i = 0; i < d.T * d.D; ++i)
    expect_equal("outputs/y", i, a.at("outputs/y", i), rectified(d, n.rest(i / d.D)),
                 "a rounded token less 1");
}

void rounded_up(Implementation& impl, const Descriptor& d) {
  const BesideOne n(d);
  Call call = otherwise_zero(d, false, [&](NamedTensors& tensors, std::int64_t e) {
    Tensor &up = tensors.at("params/gate_and_up_projs"), &down = tensors.at("params/down_projs");
    for (std::int64_t j = 0; j < d.I; ++j) {
      up.set(e * d.D * d.I + j, n.number(e + j));
      up.set((e * d.D + 1) * d.I + j, -1.0);
    }
    for (std::int64_t c = 0; c < d.D; ++c) down.set((e * d.I + c % d.I) * d.D + c, 1.0);
  });
  Tensor &x = call.tensors.at("inputs/x"), &ids = call.tensors.at("inputs/indices");
  for (std::int64_t t = 0; t < d.T; ++t) x.set(t * d.D, 1.0), x.set(t * d.D + 1, 1.0);
  const Answer a(impl, call);
  for (std::int64_t i = 0; i < d.T * d.D; ++i)
    expect_equal("outputs/y", i, a.at("outputs/y", i),
                 rectified(d, n.rest(static_cast<std::int64_t>(ids[i / d.D]) + i % d.D % d.I)),
                 "a rounded weight of the up projection less 1");
}

void rounded_down(Implementation& impl, const Descriptor& d) {
  const BesideOne n(d);
  Call call = otherwise_zero(d, false, [&](NamedTensors& tensors, std::int64_t e) {
    Tensor &up = tensors.at("params/gate_and_up_projs"), &down = tensors.at("params/down_projs");
    up.set(e * d.D * d.I, 1.0);
    up.set(e * d.D * d.I + 1, 1.0);
    for (std::int64_t c = 0; c < d.D; ++c) {
      down.set(e * d.I * d.D + c, n.number(e + c));
      down.set((e * d.I + 1) * d.D + c, -1.0);
    }
  });
  Tensor &x = call.tensors.at("inputs/x"), &ids = call.tensors.at("inputs/indices");
  for (std::int64_t t = 0; t < d.T; ++t) x.set(t * d.D, 1.0);
  const Answer a(impl, call);
  for (std::int64_t i = 0; i < d.T * d.D; ++i)
    expect_equal("outputs/y", i, a.at("outputs/y", i),
                 n.rest(static_cast<std::int64_t>(ids[i / d.D]) + i % d.D),
                 "a rounded weight of the down projection less 1");
}

/// Even columns of y show the down bias, odd ones that of a hidden unit.
void rounded_biases(Implementation& impl, const Descriptor& d) {
  const BesideOne n(d);
  Call call = otherwise_zero(d, false, [&](NamedTensors& tensors, std::int64_t e) {
    Tensor &up = tensors.at("params/gate_and_up_projs"), &down = tensors.at("params/down_projs");
    up.set(e * d.D * d.I + 1, -1.0);
    tensors.at("params/gate_up_proj_bias").set(e * d.I, 1.0);
    tensors.at("params/gate_up_proj_bias").set(e * d.I + 1, n.number(e));
    for (std::int64_t c = 0; c < d.D; ++c) {
      if (c % 2 == 0) tensors.at("params/down_proj_bias").set(e * d.D + c, n.number(e + c));
      down.set((e * d.I + c % 2) * d.D + c, c % 2 == 0 ? -1.0 : 1.0);
    }
  });
  Tensor &x = call.tensors.at("inputs/x"), &ids = call.tensors.at("inputs/indices");
  for (std::int64_t t = 0; t < d.T; ++t) x.set(t * d.D, 1.0);
  const Answer a(impl, call);
  for (std::int64_t i = 0; i < d.T * d.D; ++i) {
    const auto e = static_cast<std::int64_t>(ids[i / d.D]);
    expect_equal("outputs/y", i, a.at("outputs/y", i),
                 i % d.D % 2 == 0 ? n.rest(e + i % d.D) : rectified(d, n.rest(e)), "a rounded bias less 1");
  }
}

void rounded_operands(Implementation& impl, const Descriptor& d) {
  require_exact_products(d);
  switch (rounded_operand_of(d)) {
    case RoundedOperand::tokens:
      return rounded_tokens(impl, d);
    case RoundedOperand::up:
      return rounded_up(impl, d);
    case RoundedOperand::down:
      return rounded_down(impl, d);
    case RoundedOperand::biases:
      return rounded_biases(impl, d);
  }
}

/// The cotangent is 1 in y's first column, and so at the first hidden unit.
void gradients_of_rounded(Implementation& impl, const Descriptor& d) {
  require_exact_products(d);
  const BesideOne n(d);
  Call call = call_of_tokens(d, n, true);
  Tensor &dy = call.tensors.at("cotangents/y"), &ids = call.tensors.at("inputs/indices");
  for (std::int64_t t = 0; t < d.T; ++t) dy.set(t * d.D, 1.0);
  const Answer a(impl, call);
  std::vector<double> sums(static_cast<std::size_t>(d.E));
  for (std::int64_t t = 0; t < d.T; ++t) {
    const double slope = n.rest(t) == 0.0                        ? 0.0
                         : d.activation == ActivationKind::relu2 ? 2.0 * n.rest(t)
                                                                 : 1.0;
    sums[static_cast<std::size_t>(ids[t])] += slope * n.rounded(t);
    for (std::int64_t i = 0; i < d.D; ++i)
      expect_equal("grads/x", t * d.D + i, a.at("grads/x", t * d.D + i),
                   i == 0   ? slope
                   : i == 1 ? -slope
                            : 0.0,
                   "the gradient passes the rounding of a token");
    expect_equal("grads/weights", t, a.at("grads/weights", t), rectified(d, n.rest(t)),
                 "the gradient of a routing weight is what the expert gives");
  }
  for (std::int64_t e = 0; e < d.E; ++e) {
    const std::int64_t i = e * d.D * d.I;
    expect_near("grads/gate_and_up_projs", i, a.at("grads/gate_and_up_projs", i),
                sums[static_cast<std::size_t>(e)], a.bound("grads/gate_and_up_projs", i),
                "the gradient of a weight is made of rounded tokens");
  }
}

void arrange_rounded(Descriptor& d) {
  arrange_one_plain_expert(d);
  if (d.seed % 2 == 0) d.activation = ActivationKind::relu2;
  d.config.weight_format = WeightFormat::none;
  if (d.dtype != DType::float64) d.dtype = DType::float32;
  const bool finest = d.dtype == DType::float64 && d.seed % 3 == 0;
  d.config.expert_compute_dtype = finest                ? DType::float32
                                  : d.seed / 2 % 2 == 0 ? DType::bfloat16
                                                        : DType::float16;
  d.D = std::max<std::int64_t>(d.D, 2);
  d.I = std::max<std::int64_t>(d.I, 2);
}

void arrange_rounded_operands(Descriptor& d) {
  arrange_rounded(d);
  d.expert_bias = rounded_operand_of(d) == RoundedOperand::biases;
}

const Property kRoundedOperandsProperties[] = {
    {"C12",
     "rounded_operands",
     {Component::experts},
     PropertyClass::exact,
     "with an expert_compute_dtype, tokens, matrices and biases are rounded to it, to nearest even",
     {"operands not rounded", "tokens alone or weights alone rounded", "rounding toward zero",
      "another type"},
     arrange_rounded_operands,
     rounded_operands,
     Passes::forward},
    {"C12",
     "gradients_of_rounded",
     {Component::experts},
     PropertyClass::bounded,
     "gradients pass the rounding of tokens, and those of weights are made of rounded ones",
     {"no gradient through the rounding"},
     arrange_rounded,
     gradients_of_rounded,
     Passes::backward},
};

}  // namespace

std::span<const Property> rounded_operands_properties() { return kRoundedOperandsProperties; }

}  // namespace moeref
