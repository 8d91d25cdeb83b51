// activation.hpp: values from their closed forms, derivatives by central differences, clamps and layouts.
#include "reference_cpu/components/activation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/tests/eager_arithmetic.hpp"
#include "reference_cpu/tests/test_values.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"

namespace moeref {
namespace {

double gelu_tanh(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

struct Case {
  ActivationKind kind;
  ActivationParams params;
  double (*closed_form)(double g, double u, const ActivationParams&);
};

const Case kCases[] = {
    {ActivationKind::swiglu,
     {0.0, 0.0},
     [](double g, double u, const ActivationParams&) { return g * sigma(g) * u; }},
    {ActivationKind::swiglu,
     {0.0, 1.5},
     [](double g, double u, const ActivationParams& p) {
       const double a = std::min(g, p.limit), b = std::clamp(u, -p.limit, p.limit);
       return a * sigma(a) * b;
     }},
    {ActivationKind::swiglu,
     {0.0, 1.45, true},
     [](double g, double u, const ActivationParams& p) {
       return std::min(g * sigma(g), p.limit) * std::clamp(u, -p.limit, p.limit);
     }},
    {ActivationKind::swigluoai,
     {1.702, 7.0},
     [](double g, double u, const ActivationParams& p) {
       const double a = std::min(g, p.limit), b = std::clamp(u, -p.limit, p.limit);
       return a * sigma(p.alpha * a) * (b + 1.0);
     }},
    {ActivationKind::swigluoai,
     {0.5, 0.0},  // a limit of 0 is no limit
     [](double g, double u, const ActivationParams& p) { return g * sigma(p.alpha * g) * (u + 1.0); }},
    {ActivationKind::quick_geglu,
     {1.702, 1.0},
     [](double g, double u, const ActivationParams& p) {
       const double a = std::min(g, p.limit), b = std::clamp(u, -p.limit, p.limit);
       return a * sigma(p.alpha * a) * (b + 1.0);
     }},
    {ActivationKind::geglu,
     {0.0, 0.0},
     [](double g, double u, const ActivationParams&) { return gelu_tanh(g) * u; }},
    {ActivationKind::relu2,
     {0.0, 0.0},
     [](double, double u, const ActivationParams&) { return std::pow(std::max(u, 0.0), 2.0); }},
    {ActivationKind::geglu_erf,
     {0.0, 0.0},
     [](double g, double u, const ActivationParams&) { return gelu_erf(g) * u; }},
    {ActivationKind::silu,
     {0.0, 0.0},
     [](double, double u, const ActivationParams&) { return u * sigma(u); }},
    {ActivationKind::gelu, {0.0, 0.0}, [](double, double u, const ActivationParams&) { return gelu_erf(u); }},
    {ActivationKind::gelu_tanh,
     {0.0, 0.0},
     [](double, double u, const ActivationParams&) { return gelu_tanh(u); }},
    {ActivationKind::relu,
     {0.0, 0.0},
     [](double, double u, const ActivationParams&) { return std::max(u, 0.0); }},
    {ActivationKind::situ,
     {0.0, 0.0, false, 4.0, 25.0},
     [](double g, double u, const ActivationParams&) {
       return 4.0 * std::tanh(g / 4.0) * sigma(g) * 25.0 * std::tanh(u / 25.0);
     }},
    {ActivationKind::situ,
     {0.0, 0.0, false, 2.5, 0.0},
     [](double g, double u, const ActivationParams&) { return 2.5 * std::tanh(g / 2.5) * sigma(g) * u; }},
};

const double kPoints[] = {-30.0, -9.0, -3.0, -1.25, -0.5, 0.0, 0.3, 0.9, 1.4, 2.5, 6.5, 8.0, 30.0};

TEST(ActivationTest, ValuesAreTheClosedForms) {
  for (const Case& c : kCases)
    for (const double g : kPoints)
      for (const double u : kPoints) {
        const Real a = activation(c.kind).value(known(g, kDouble), known(u, kDouble), c.params);
        const double want = c.closed_form(g, u, c.params);
        EXPECT_NEAR(a.value, want, 1e-14 * (1.0 + std::abs(want))) << name(c.kind) << " " << g << " " << u;
        EXPECT_LE(std::abs(a.value - want), a.error + 1e-15 * std::abs(want));
      }
}

TEST(ActivationTest, GradientsAreCentralDifferences) {
  const double h = 1e-5, cotangent = 0.7;
  for (const Case& c : kCases)
    for (const double g : kPoints)
      for (const double u : kPoints) {
        const Activation& act = activation(c.kind);
        const auto [dg, du] =
            act.gradient(known(g, kDouble), known(u, kDouble), known(cotangent, kDouble), c.params);
        const double want_g =
            (c.closed_form(g + h, u, c.params) - c.closed_form(g - h, u, c.params)) / (2 * h) * cotangent;
        const double want_u =
            (c.closed_form(g, u + h, c.params) - c.closed_form(g, u - h, c.params)) / (2 * h) * cotangent;
        const double tolerance = 1e-8 * (1.0 + std::abs(g) * std::abs(u) + u * u);
        EXPECT_NEAR(act.gated() ? dg.value : 0.0, want_g, tolerance) << name(c.kind) << " " << g << " " << u;
        // At their kink the central differences are h / 2 and 1 / 2.
        const bool kink = c.kind == ActivationKind::relu2 || c.kind == ActivationKind::relu;
        EXPECT_NEAR(du.value, u == 0.0 && kink ? 0.0 : want_u, tolerance)
            << name(c.kind) << " " << g << " " << u;
      }
}

TEST(ActivationTest, GradientsAreZeroPastTheClampsAndPassAtThem) {
  const ActivationParams p{1.702, 7.0};
  const auto gradient = [&](ActivationKind kind, double g, double u) {
    return activation(kind).gradient(known(g, kDouble), known(u, kDouble), known(1.0, kDouble), p);
  };
  for (const ActivationKind kind :
       {ActivationKind::swiglu, ActivationKind::swigluoai, ActivationKind::quick_geglu}) {
    EXPECT_EQ(gradient(kind, 7.5, 1.0).first.value, 0.0);
    EXPECT_EQ(gradient(kind, 7.5, 1.0).first.error, 0.0);
    EXPECT_NE(gradient(kind, 7.0, 1.0).first.value, 0.0);     // clamps pass the gradient at the limit
    EXPECT_NE(gradient(kind, -50.0, 1.0).second.value, 0.0);  // the gate has no lower limit
    EXPECT_EQ(gradient(kind, 1.0, 7.5).second.value, 0.0);
    EXPECT_EQ(gradient(kind, 1.0, -7.5).second.value, 0.0);
    EXPECT_NE(gradient(kind, 1.0, -7.0).second.value, 0.0);
  }
}

TEST(ActivationTest, AnInfiniteGradientBelowAKinkIsOpen) {
  for (const ActivationKind kind : {ActivationKind::relu, ActivationKind::relu2}) {
    const auto by_up = [&](double u, double d) {
      return activation(kind).gradient({}, known(u, kDouble), known(d, kDouble), {}).second;
    };
    EXPECT_EQ(by_up(-1.0, INFINITY).value, 0.0);  // or NaN, in a port that multiplies
    EXPECT_EQ(by_up(-1.0, INFINITY).error, INFINITY);
    EXPECT_EQ(by_up(-1.0, 3.0).error, 0.0);
    if (kind == ActivationKind::relu2) {
      EXPECT_EQ(by_up(kNaN, 3.0).error, INFINITY);
    }
    const Real near =
        activation(kind).gradient({}, {1e-3, 1e-2, kDouble}, known(INFINITY, kDouble), {}).second;
    EXPECT_EQ(near.value, 0.0);  // on which side is open
    EXPECT_EQ(near.error, INFINITY);
    EXPECT_EQ(by_up(1.0, INFINITY).value, INFINITY);
  }
}

TEST(ActivationTest, AnInfiniteGradientPastAClampIsOpen) {
  const ActivationParams limit{1.0, 1.0}, after{1.0, 1.0, true};
  const auto at = [](ActivationKind kind, const ActivationParams& p, double g, double u, double d,
                     double error) {
    return activation(kind).gradient(known(g, kDouble), known(u, kDouble), {d, error, kDouble}, p);
  };
  for (const auto& [kind, p] : {std::pair{ActivationKind::swiglu, limit},
                                {ActivationKind::swiglu, after},
                                {ActivationKind::swigluoai, limit},
                                {ActivationKind::quick_geglu, limit}})
    for (const auto& [d, error] : {std::pair{INFINITY, 0.0}, {1.0, INFINITY}}) {
      const auto [by_gate, by_up] = at(kind, p, 9.0, 9.0, d, error);
      for (const Real past : {by_gate, by_up}) {
        EXPECT_EQ(past.value, 0.0) << name(kind);  // or NaN, in a port that multiplies
        EXPECT_EQ(past.error, INFINITY) << name(kind);
      }
      EXPECT_EQ(at(kind, p, 9.0, 9.0, 3.0, 0.0).first.error, 0.0) << name(kind);
      EXPECT_EQ(at(kind, p, 0.5, 0.5, INFINITY, 0.0).second.value, INFINITY) << name(kind);
    }
}

TEST(ActivationTest, AGradientNearAClampIsOpen) {
  const ActivationParams p{1.702, 7.0};
  const Real near{6.99, 0.1, precision(DType::float32)}, one = known(1.0, precision(DType::float32));
  const auto [dg, du] = activation(ActivationKind::swigluoai).gradient(near, one, one, p);
  EXPECT_GE(dg.error, std::abs(dg.value));  // 0 is as good
  EXPECT_LT(du.error, 0.5);
}

TEST(ActivationTest, Layouts) {
  const Activation& halves = activation(ActivationKind::swiglu);
  const Activation& interleaved = activation(ActivationKind::quick_geglu);
  const Activation& up_only = activation(ActivationKind::relu2);
  EXPECT_EQ(halves.gate_column(2, 5), 2);
  EXPECT_EQ(halves.up_column(2, 5), 7);
  EXPECT_EQ(interleaved.gate_column(2, 5), 4);
  EXPECT_EQ(interleaved.up_column(2, 5), 5);
  EXPECT_FALSE(up_only.gated());
  EXPECT_EQ(up_only.up_column(2, 5), 2);
}

TEST(ActivationTest, LimitsOfTheConfig) {
  MoEConfig c;
  c.swiglu_limit = 10.0;
  c.activation_limit = 7.0;
  c.activation_alpha = 2.0;
  c.expert_activation = ActivationKind::swiglu;
  EXPECT_EQ(activation_params(c).limit, 10.0);
  c.expert_activation = ActivationKind::quick_geglu;
  EXPECT_EQ(activation_params(c).limit, 7.0);
  EXPECT_EQ(activation_params(c).alpha, 2.0);
}

TEST(ActivationTest, SiLUOfALargeIntegerIsExactInFloat) {
  // g / (1 + exp(-g)) is g itself from 17 on: what exact data is built on.
  for (int g = 17; g < 60; ++g)
    EXPECT_EQ(static_cast<float>(
                  activation(ActivationKind::swiglu).value(known(g, kDouble), known(1.0, kDouble), {}).value),
              static_cast<float>(g));
}

/// The gradient by g in float16 where every operation rounds: as the documented system writes it, and as
/// automatic differentiation computes it.
std::array<double, 2> gate_gradients_in_float16(ActivationKind kind, double g, double u, double d) {
  using eager::Num;
  const DType t = DType::float16;
  const Num gate{g, t}, up{u, t}, cot{d, t};
  const double s = sigma(g), exact_slope = s * (1.0 + g * (1.0 - s));
  if (kind == ActivationKind::swiglu) {
    const Num sig = eager::sigmoid(gate);
    const Num fused =
        eager::apply(cot * up, gate, [&](auto by, auto) { return by * static_cast<float>(exact_slope); });
    return {(cot * sig * (1.0 + gate * (1.0 - sig)) * up).v, fused.v};
  }
  const double x = std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g), tanh_x = std::tanh(x);
  const double slope = 0.5 * (1.0 + tanh_x) + 0.5 * g * (1.0 - tanh_x * tanh_x) * std::sqrt(2.0 / M_PI) *
                                                  (1.0 + 3.0 * 0.044715 * g * g);
  const Num by_up = cot * up;
  const double fused = eager::round_as(t, by_up.v * slope);
  return {fused, fused};
}

TEST(ActivationTest, BoundsInFloat16AllowForUnderflowInEveryOrder) {
  const Precision half = precision(DType::float16);
  for (const ActivationKind kind : {ActivationKind::swiglu, ActivationKind::geglu}) {
    double worst = 0.0;
    const CounterGenerator random(3, "float16");
    for (std::uint64_t i = 0; i < 40000; ++i) {
      const auto draw = [&](std::uint64_t n, double scale) {
        return eager::round_as(DType::float16, scale * random.normal(3 * i + n));
      };
      // Sizes from 2^-10 to 2^9, so that each product underflows for some of them.
      const double g = draw(0, 6.0), u = draw(1, std::exp2(static_cast<double>(i % 20) - 10.0)),
                   d = draw(2, std::exp2(static_cast<double>(i / 20 % 20) - 12.0));
      const Real bounded =
          activation(kind).gradient(known(g, half), known(u, half), known(d, half), {}).first;
      for (const double value : gate_gradients_in_float16(kind, g, u, d)) {
        const double r = value_ratio(value, bounded.value, bounded.error);
        ASSERT_LE(r, 1.0) << name(kind) << " of " << g << ", " << u << ", " << d << ": " << value << ", want "
                          << bounded.value << " +- " << bounded.error;
        worst = std::max(worst, r);
      }
    }
    EXPECT_GT(worst, 0.25) << name(kind);  // the bound is no wider than four such errors
  }
}

}  // namespace
}  // namespace moeref
