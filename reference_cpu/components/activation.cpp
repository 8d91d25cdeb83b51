#include "reference_cpu/components/activation.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>

#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

using Params = ActivationParams;
using Gradient = std::pair<Real, Real>;

constexpr double kInfinity = INFINITY;

/// The number in fp32 or finer, for the inside of one function.
Real in_fp32(Real a) { return widen(a, precision(DType::float32)); }
/// The number in fp32, as by `.float()`: one in fp64 is rounded.
Real as_fp32(Real a) { return store(a, precision(DType::float32)); }

// silu(g) = g sigmoid(g), one function that rounds once at its end.
Real silu(Real g) {
  const Real f = in_fp32(g);
  return store(f * sigmoid(f), g.held);
}

// The larger bound of two ways in which honest implementations compute a number.
Real either(Real a, Real b) {
  a.error = std::max(a.error, b.error);
  return a;
}

// silu'(g) = s (1 + g (1 - s)), as the documented system writes it out, or s + g s (1 - s).
Real silu_slope(Real g) {
  const Real s = sigmoid(g);
  return either(s * (1.0 + g * (1.0 - s)), s + g * s * (1.0 - s));
}

// The same product where honest implementations multiply its factors in other orders. Where a product of two
// underflows its rounding errs by `tiny`, and the factors that are left carry that on: `lefts` has these, one
// per order. `first` is a product that may overflow where the whole does not. What holds an exact 0 is 0 in
// every order.
Real in_other_orders(Real a, Real first, std::initializer_list<Real> lefts) {
  if (a.value == 0.0 && a.error == 0.0) return a;
  double most = 0.0;
  for (const Real left : lefts) most = std::max(most, std::abs(left.value) + left.error);
  if (most < INFINITY) a.error += a.held.tiny * most;
  if (!(first.error < INFINITY)) a.error = INFINITY;
  return a;
}

// d times a slope that is 0 on one side of a kink or past a clamp: honest implementations multiply by it or
// leave the term out, which differ where d may not be finite, and on which side NaN is.
Real past_kink(Real d, Real slope) {
  const Real product = d * slope;
  const bool finite = std::isfinite(d.value) && d.error < INFINITY;
  const bool may_be_zero = std::abs(slope.value) <= slope.error;
  const bool open = std::isnan(slope.value) || (may_be_zero && !finite);
  return open ? Real{0.0, INFINITY, product.held} : product;
}

Real swiglu_limited(Real g, Real u, const Params& p) {
  return silu(clamp(as_fp32(g), -kInfinity, p.limit)) * clamp(as_fp32(u), -p.limit, p.limit);
}
Gradient swiglu_limited_gradient(Real g, Real u, Real d, const Params& p) {
  const Real gate = clamp(as_fp32(g), -kInfinity, p.limit);
  const Real up = clamp(as_fp32(u), -p.limit, p.limit);
  return {past_kink(as_fp32(d) * silu_slope(gate) * up, inside(as_fp32(g), -kInfinity, p.limit)),
          past_kink(as_fp32(d) * silu(gate), inside(as_fp32(u), -p.limit, p.limit))};
}

Real swiglu_clamped_after(Real g, Real u, const Params& p) {
  return clamp(silu(g), -kInfinity, p.limit) * clamp(u, -p.limit, p.limit);
}
Gradient swiglu_clamped_after_gradient(Real g, Real u, Real d, const Params& p) {
  const Real gate = silu(g), up = clamp(u, -p.limit, p.limit), slope = silu_slope(g);
  return {past_kink(in_other_orders(d * slope * up, d * up, {slope}), inside(gate, -kInfinity, p.limit)),
          past_kink(d * clamp(gate, -kInfinity, p.limit), inside(u, -p.limit, p.limit))};
}

// Without a limit swiglu has neither clamps nor their cast to fp32.
Real swiglu(Real g, Real u, const Params& p) {
  if (p.limit > 0.0) return p.clamp_after ? swiglu_clamped_after(g, u, p) : swiglu_limited(g, u, p);
  return silu(g) * u;
}
Gradient swiglu_gradient(Real g, Real u, Real d, const Params& p) {
  if (p.limit > 0.0 && p.clamp_after) return swiglu_clamped_after_gradient(g, u, d, p);
  if (p.limit > 0.0) return swiglu_limited_gradient(g, u, d, p);
  // The documented system multiplies d s first, automatic differentiation d u.
  const Real slope = silu_slope(g);
  return {in_other_orders(d * slope * u, d * u, {(1.0 + g * (1.0 - sigmoid(g))) * u, slope}), d * silu(g)};
}

// g sigmoid(alpha g) (u + 1) and its derivatives. That by g is either one product, or the sum of two terms as
// automatic differentiation has it, which are rounded before they cancel.
Real scaled_glu(Real g, Real u, double alpha) { return g * sigmoid(g * alpha) * (u + 1.0); }
Gradient scaled_glu_gradient(Real g, Real u, Real d, double alpha) {
  const Real s = sigmoid(g * alpha);
  const Real d_glu = d * (u + 1.0);
  return {either(d * s * (1.0 + g * alpha * (1.0 - s)) * (u + 1.0),
                 d_glu * s + d_glu * g * (1.0 - s) * s * alpha),
          either(d * g * s, d * (g * s))};  // g s may round in a coarser type than d has
}

Real swigluoai(Real g, Real u, const Params& p) {
  const double limit = p.limit > 0.0 ? p.limit : kInfinity;
  return scaled_glu(clamp(as_fp32(g), -kInfinity, limit), clamp(as_fp32(u), -limit, limit), p.alpha);
}
Gradient swigluoai_gradient(Real g, Real u, Real d, const Params& p) {
  const double limit = p.limit > 0.0 ? p.limit : kInfinity;
  const auto [dg, du] = scaled_glu_gradient(clamp(as_fp32(g), -kInfinity, limit),
                                            clamp(as_fp32(u), -limit, limit), as_fp32(d), p.alpha);
  return {past_kink(dg, inside(as_fp32(g), -kInfinity, limit)),
          past_kink(du, inside(as_fp32(u), -limit, limit))};
}

Real quick_geglu(Real g, Real u, const Params& p) {
  return scaled_glu(clamp(g, -kInfinity, p.limit), clamp(u, -p.limit, p.limit), p.alpha);
}
Gradient quick_geglu_gradient(Real g, Real u, Real d, const Params& p) {
  const auto [dg, du] =
      scaled_glu_gradient(clamp(g, -kInfinity, p.limit), clamp(u, -p.limit, p.limit), d, p.alpha);
  return {past_kink(dg, inside(g, -kInfinity, p.limit)), past_kink(du, inside(u, -p.limit, p.limit))};
}

// gelu_tanh(g) = g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))).
constexpr double kSqrt2OverPi = 0.79788456080286535588;
constexpr double kCubic = 0.044715;

Real gelu_tanh(Real g) {
  const Real f = in_fp32(g);
  const Real t = tanh((f + f * f * f * kCubic) * kSqrt2OverPi);
  return store(f * 0.5 * (1.0 + t), g.held);
}
Real gelu_tanh_slope(Real g) {
  const Real t = tanh((g + g * g * g * kCubic) * kSqrt2OverPi);
  const Real inner_slope = (1.0 + g * g * (3.0 * kCubic)) * kSqrt2OverPi;
  return (1.0 + t) * 0.5 + g * 0.5 * (1.0 - t * t) * inner_slope;
}

Real geglu(Real g, Real u, const Params&) { return gelu_tanh(g) * u; }
Gradient geglu_gradient(Real g, Real u, Real d, const Params&) {
  const Real slope = gelu_tanh_slope(g);
  return {in_other_orders(d * slope * u, d * u, {slope}), d * gelu_tanh(g)};
}

// gelu(g) = g/2 (1 + erf(g / sqrt 2)), one function that rounds once at its end, and so does its slope
// 1/2 (1 + erf(g / sqrt 2)) + g exp(-g^2 / 2) / sqrt(2 pi).
constexpr double kRootHalf = 0.70710678118654752440, kGauss = 0.39894228040143267794;

Real gelu_erf(Real g) {
  const Real f = in_fp32(g);
  return store(f * 0.5 * (1.0 + erf(f * kRootHalf)), g.held);
}
Real gelu_erf_slope(Real g) {
  const Real f = in_fp32(g);
  return store((1.0 + erf(f * kRootHalf)) * 0.5 + f * exp(f * f * -0.5) * kGauss, g.held);
}

Real geglu_erf(Real g, Real u, const Params&) { return gelu_erf(g) * u; }
Gradient geglu_erf_gradient(Real g, Real u, Real d, const Params&) {
  const Real slope = gelu_erf_slope(g);
  return {in_other_orders(d * slope * u, d * u, {slope}), d * gelu_erf(g)};
}

// Without a gate.
Real plain_silu(Real, Real u, const Params&) { return silu(u); }
Gradient plain_silu_gradient(Real, Real u, Real d, const Params&) { return {{}, d * silu_slope(u)}; }
Real plain_gelu(Real, Real u, const Params&) { return gelu_erf(u); }
Gradient plain_gelu_gradient(Real, Real u, Real d, const Params&) { return {{}, d * gelu_erf_slope(u)}; }
Real plain_gelu_tanh(Real, Real u, const Params&) { return gelu_tanh(u); }
Gradient plain_gelu_tanh_gradient(Real, Real u, Real d, const Params&) {
  return {{}, d * gelu_tanh_slope(u)};
}
Real plain_relu(Real, Real u, const Params&) { return relu(u); }
/// At 0 the slope is 0; the bound is 1 where the sign is open.
Gradient plain_relu_gradient(Real, Real u, Real d, const Params&) {
  const bool open = u.error > 0.0 && std::abs(u.value) <= u.error;
  return {{}, past_kink(d, Real{u.value > 0.0 ? 1.0 : 0.0, open ? 1.0 : 0.0, u.held})};
}

/// beta tanh(z / beta) and its slope; the number itself where beta is 0. Honest implementations divide by
/// beta or multiply by 1 / beta.
struct Bounded {
  Real value, slope;
};
Bounded bounded(Real z, double beta) {
  if (beta == 0.0) return {z, known(1.0, z.held)};
  const Real t = tanh(either(z / beta, z * (1.0 / beta)));
  return {t * beta, 1.0 - t * t};
}

Real situ(Real g, Real u, const Params& p) {
  const Real gate = as_fp32(g), up = as_fp32(u);
  return store(bounded(gate, p.situ_beta).value * sigmoid(gate) * bounded(up, p.situ_linear_beta).value,
               g.held);
}
// Automatic differentiation multiplies by beta, by the slope of tanh and by 1 / beta, and adds the terms by
// tanh and by sigmoid when they have been rounded.
Gradient situ_gradient(Real g, Real u, Real cotangent, const Params& p) {
  const Real gate = as_fp32(g), d = as_fp32(cotangent), s = sigmoid(gate);
  const auto [in, in_slope] = bounded(gate, p.situ_beta);
  const auto [up, up_slope] = bounded(as_fp32(u), p.situ_linear_beta);
  const Real slope = in_slope * s + in * s * (1.0 - s), by_product = d * up,
             by_tanh = by_product * s * p.situ_beta;
  const Real by_gate =
      either(by_product * slope, by_tanh * in_slope * (1.0 / p.situ_beta) + by_product * in * s * (1.0 - s));
  const double beta = p.situ_linear_beta == 0.0 ? 1.0 : p.situ_linear_beta;
  const Real scaled = d * (in * s) * beta;
  return {in_other_orders(by_gate, by_tanh, {slope, up}),
          in_other_orders(scaled * up_slope * (1.0 / beta), scaled, {up_slope, in * s})};
}

Real relu2(Real, Real u, const Params&) { return relu(u) * relu(u); }
Gradient relu2_gradient(Real, Real u, Real d, const Params&) { return {{}, past_kink(d, relu(u) * 2.0)}; }

constexpr auto kActivationRows = std::to_array<Activation>({
    {ActivationKind::swiglu, swiglu, swiglu_gradient},
    {ActivationKind::swigluoai, swigluoai, swigluoai_gradient},
    {ActivationKind::quick_geglu, quick_geglu, quick_geglu_gradient},
    {ActivationKind::geglu, geglu, geglu_gradient},
    {ActivationKind::relu2, relu2, relu2_gradient},
    {ActivationKind::geglu_erf, geglu_erf, geglu_erf_gradient},
    {ActivationKind::silu, plain_silu, plain_silu_gradient},
    {ActivationKind::gelu, plain_gelu, plain_gelu_gradient},
    {ActivationKind::gelu_tanh, plain_gelu_tanh, plain_gelu_tanh_gradient},
    {ActivationKind::relu, plain_relu, plain_relu_gradient},
    {ActivationKind::situ, situ, situ_gradient},
});
static_assert(has_row_per_enumerator<kActivationRows>());

}  // namespace

const Activation& activation(ActivationKind kind) { return kActivationRows[static_cast<std::size_t>(kind)]; }

ActivationParams activation_params(const MoEConfig& c) {
  const bool own = facts(c.expert_activation).clamp == ClampField::activation_limit;
  return {c.activation_alpha, own ? c.activation_limit : c.swiglu_limit, c.clamp_after_activation,
          c.situ_beta, c.situ_linear_beta};
}

ActivationParams activation_params(const MLPConfig& c) {
  return {0.0, c.swiglu_limit, false, c.situ_beta, c.situ_linear_beta};
}

}  // namespace moeref
