// Elementary functions with the same bits everywhere: any compiler, optimisation level, vector width, C
// library or GPU.
//
// Only + - * / sqrt, comparisons and bit operations, each correctly rounded by IEEE 754, in a fixed order.
// This holds as long as nothing contracts a * b + c into one operation or reorders sums: compile with
// -ffp-contract=off (nvcc: -fmad=false) and never with -ffast-math. The pinned digests of exact_math_test.cpp
// catch a build that breaks this.
//
// Methods: argument reduction and polynomials in the manner of Cody and Waite (Software Manual for the
// Elementary Functions, 1980) and of Muller (Elementary Functions, 3rd ed., 2016); the coefficients are
// Chebyshev fits made at 200 bits. Errors against long double, over six million points each, stay below, in
// units of the result's last place:
//   exp 0.90, expm1 1.05, log 0.85, log1p 0.90, tanh 1.25, erf 2.05, sin and cos 0.85 (|x| <= 2^20),
//   sin_cos_turns 1.50.
// The function of any NaN is the quiet NaN 0x7ff8000000000000. Subnormal arguments and results are honoured.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#if defined(__SSE2__) && !defined(__CUDA_ARCH__)
#include <emmintrin.h>
#endif

#ifdef __CUDACC__
#define MOEREF_HOST_DEVICE __host__ __device__
#else
#define MOEREF_HOST_DEVICE
#endif

#ifdef __FAST_MATH__
#error "moeref/exact_math.hpp needs IEEE 754 arithmetic: compile without -ffast-math"
#endif

namespace moeref::exact {

namespace detail {

MOEREF_HOST_DEVICE inline std::uint64_t to_bits(double x) {
#ifdef __CUDA_ARCH__
  return static_cast<std::uint64_t>(__double_as_longlong(x));
#else
  return std::bit_cast<std::uint64_t>(x);
#endif
}

MOEREF_HOST_DEVICE inline double from_bits(std::uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __longlong_as_double(static_cast<long long>(bits));
#else
  return std::bit_cast<double>(bits);
#endif
}

MOEREF_HOST_DEVICE inline double quiet_nan() { return from_bits(0x7ff8000000000000u); }
MOEREF_HOST_DEVICE inline double infinity() { return from_bits(0x7ff0000000000000u); }
MOEREF_HOST_DEVICE inline double magnitude(double x) { return from_bits(to_bits(x) & 0x7fffffffffffffffu); }
MOEREF_HOST_DEVICE inline double with_sign_of(double magnitude, double x) {
  return from_bits(to_bits(magnitude) | (to_bits(x) & 0x8000000000000000u));
}

/// c0 + z (c1 + z (c2 + ...)), innermost first.
MOEREF_HOST_DEVICE inline double horner(double, double c) { return c; }
template <typename... More>
MOEREF_HOST_DEVICE inline double horner(double z, double c0, double c1, More... more) {
  return c0 + z * horner(z, c1, more...);
}

// Adding 1.5 * 2^52 rounds a double below 2^51 to an integer, which then stands in the low bits of the sum.
inline constexpr double kRounder = 0x1.8p52;
inline constexpr std::uint64_t kRounderBits = 0x4338000000000000u;
// ln 2 in two parts: the first has 32 bits, so its product with any exponent is exact.
inline constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;

/// y 2^k for k in [-2040, 2040], rounded once: only the second factor can leave the normal range.
MOEREF_HOST_DEVICE inline double scale(double y, std::uint64_t k) {
  const std::uint64_t half = ((k + 2048) >> 1) - 1024;
  return y * from_bits((half + 1023) << 52) * from_bits((k - half + 1023) << 52);
}

/// x = k ln 2 + r + tail with |r| <= 0.347, and t = tail + (e^r - 1 - r), all for |x| < 2000.
struct ExpParts {
  double r, t;
  std::uint64_t k;
};
MOEREF_HOST_DEVICE inline ExpParts exp_parts(double x) {
  const double shifted = x * 0x1.71547652b82fep+0 + kRounder;
  const double k = shifted - kRounder;
  const double high = x - k * kLn2High, low = k * kLn2Low;
  const double r = high - low, tail = (high - r) - low;
  const double p =
      horner(r, 0.5, 0x1.5555555555557p-3, 0x1.5555555555556p-5, 0x1.11111111100dcp-7, 0x1.6c16c16c162d4p-10,
             0x1.a01a01abe7fe1p-13, 0x1.a01a01a6d889cp-16, 0x1.71de0231960ebp-19, 0x1.27e4db646b17ep-22,
             0x1.af4de97ca4194p-26, 0x1.1f730349868cep-29);
  return {r, tail + r * r * p, to_bits(shifted) - kRounderBits};
}

/// k ln 2 + log(1 + f) + tail, for f in [sqrt(1/2) - 1, sqrt(2) - 1]: with s = f / (2 + f),
/// log(1 + f) = 2 atanh(s) = f - (f^2/2 - s (f^2/2 + s^2 R(s^2))).
MOEREF_HOST_DEVICE inline double log_parts(double k, double f, double tail) {
  const double s = f / (2.0 + f), z = s * s, half_square = 0.5 * f * f;
  const double r =
      z * horner(z, 0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476c42p-2, 0x1.c71c720168523p-3,
                 0x1.745cf8fe32a46p-3, 0x1.3b1c36b44161bp-3, 0x1.0fbe71adfbddap-3, 0x1.0c051669ed051p-3);
  return k * kLn2High - ((half_square - (s * (half_square + r) + (k * kLn2Low + tail))) - f);
}

/// x = 2^k (1 + f) for a positive normal x.
struct LogParts {
  double k, f;
};
MOEREF_HOST_DEVICE inline LogParts split(double x) {
  constexpr std::uint64_t root_half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u;
  const std::uint64_t shifted = to_bits(x) + (one - root_half);
  // The biased exponent e as a double, read from the bits of 2^52 + e: 64-bit conversions do not vectorise.
  const double k = from_bits((shifted >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0);
  return {k, from_bits((shifted & 0x000fffffffffffffu) + root_half) - 1.0};
}

/// sin and cos of y + tail, |y| <= pi / 4 and the tail below its last place, turned by `quadrant` quarter
/// turns.
struct SinCos {
  double sin, cos;
};
MOEREF_HOST_DEVICE inline SinCos sin_cos_parts(double y, double tail, std::uint64_t quadrant) {
  const double z = y * y, half = 0.5 * z, w = 1.0 - half;
  const double s_poly =
      horner(z, -0x1.5555555555555p-3, 0x1.111111111111p-7, -0x1.a01a01a019936p-13, 0x1.71de3a54605eep-19,
             -0x1.ae64541266378p-26, 0x1.61217ec01749dp-33, -0x1.ab17a79237a19p-41);
  const double c_poly = horner(z, 0x1.5555555555555p-5, -0x1.6c16c16c16966p-10, 0x1.a01a019f4e867p-16,
                               -0x1.27e4fa17a41b4p-22, 0x1.1eeb68b109173p-29, -0x1.907d7aebd5e3dp-37);
  const double s = y + (y * z * s_poly + tail * w);
  const double c = w + (((1.0 - w) - half) + (z * z * c_poly - y * tail));
  const std::uint64_t sb = to_bits(s), cb = to_bits(c), swap = ~((quadrant & 1) - 1);
  return {from_bits(((cb & swap) | (sb & ~swap)) ^ ((quadrant & 2) << 62)),
          from_bits(((sb & swap) | (cb & ~swap)) ^ (((quadrant + 1) & 2) << 62))};
}

}  // namespace detail

using detail::SinCos;

/// Correctly rounded; NaN below 0.
MOEREF_HOST_DEVICE inline double sqrt(double x) {
#if defined(__SSE2__) && !defined(__CUDA_ARCH__)
  // std::sqrt may set errno, which costs a branch and a possible call for every element.
  const __m128d v = _mm_set_sd(x);
  const double y = _mm_cvtsd_f64(_mm_sqrt_sd(v, v));
#else
  const double y = ::sqrt(x);
#endif
  return y == y ? y : detail::quiet_nan();
}

MOEREF_HOST_DEVICE inline double exp(double x) {
  const double low = x < -750.0 ? -750.0 : x;
  const auto [r, t, k] = detail::exp_parts(low > 710.0 ? 710.0 : low);
  const double y = detail::scale(1.0 + (r + t), k);
  return x == x ? y : detail::quiet_nan();
}

/// e^x - 1.
MOEREF_HOST_DEVICE inline double expm1(double x) {
  const double low = x < -40.0 ? -40.0 : x;
  const auto [r, t, k] = detail::exp_parts(low > 710.0 ? 710.0 : low);
  // 2^k (1 + r + t) - 1 = 2^k ((1 - 2^-k) + r + t), the first sum without error. 2^-k stops mattering far
  // below 2^-1000.
  const std::uint64_t shift = k + 2048 > 3048 ? 1000 : k;
  const double power = detail::from_bits((1023 - shift) << 52), w = 1.0 - power, sum = w + r;
  const double lost = (r - (sum - w)) + ((1.0 - w) - power);
  const double y = detail::scale(sum + (lost + t), k);
  const double small = detail::magnitude(x) < 0x1p-54 ? x : y;  // keeps -0 and every bit of a subnormal
  return x == x ? small : detail::quiet_nan();
}

/// Natural logarithm; -inf at 0, NaN below.
MOEREF_HOST_DEVICE inline double log(double x) {
  const bool subnormal = x < 0x1p-1022;
  const auto [k, f] = detail::split(subnormal ? x * 0x1p54 : x);
  const double y = detail::log_parts(subnormal ? k - 54.0 : k, f, 0.0);
  const double finite = x < detail::infinity() ? y : x;
  const double positive = x > 0.0 ? finite : detail::quiet_nan();
  return x == 0.0 ? -detail::infinity() : positive;
}

/// log(1 + x); -inf at -1, NaN below.
MOEREF_HOST_DEVICE inline double log1p(double x) {
  const double u = 1.0 + x;
  const bool near = x > -0.29 && x < 0.41;  // here x itself is f, without rounding 1 + x
  const bool inside = x > -1.0 && x < detail::infinity();
  const auto [k, f] = detail::split(inside ? u : 1.0);
  const double lost = detail::magnitude(x) < 1.0 ? x - (u - 1.0) : 1.0 - (u - x);
  const double y = detail::log_parts(near ? 0.0 : k, near ? x : f, near ? 0.0 : lost / u);
  const double small = detail::magnitude(x) < 0x1p-54 ? x : y;  // keeps -0
  const double edge = x == -1.0 ? -detail::infinity() : x > 0.0 ? x : detail::quiet_nan();
  return inside ? small : edge;
}

MOEREF_HOST_DEVICE inline double tanh(double x) {
  const double a = detail::magnitude(x), z = x * x;
  const double small =
      x + x * z *
              detail::horner(z, -0x1.5555555555555p-2, 0x1.1111111111109p-3, -0x1.ba1ba1ba1ad79p-5,
                             0x1.664f488284a62p-6, -0x1.226e3554e44b7p-7, 0x1.d6d3cf0c9f4f0p-9,
                             -0x1.7da3468275600p-10, 0x1.3556d1497c973p-11, -0x1.f567a08729e42p-13,
                             0x1.95f8917d9e05ap-14, -0x1.4716206d34c37p-15, 0x1.02a4681561bf1p-16,
                             -0x1.83b86bf37b691p-18, 0x1.01ed0537aafe1p-19, -0x1.1306c68e489eap-21,
                             0x1.922fdbe58a872p-24, -0x1.255e7760dc76dp-27);
  const double large = 1.0 - 2.0 / (exact::exp(2.0 * (a < 22.0 ? a : 22.0)) + 1.0);
  // The sign of -0 is set by hand: -0 + 0 is +0.
  const double y = detail::with_sign_of(a < 1.0 ? detail::magnitude(small) : large, x);
  return x == x ? y : detail::quiet_nan();
}

/// Below 1 the Maclaurin series, below 2 the Taylor series at 3/2, whose derivatives are Hermite polynomials;
/// above, 1 minus the even part of the continued fraction of erfc (Abramowitz and
/// Stegun 7.1.5, 7.1.19, 7.1.14).
MOEREF_HOST_DEVICE inline double erf(double x) {
  constexpr double root = 0x1.20dd750429b6dp+0, root_minus_1 = 0x1.06eba8214db69p-3;  // 2 / sqrt(pi)
  constexpr double at_center = 0x1.eea5557137ae0p-1, slope_at_center = 0x1.e723726b824a9p-4;
  const double a = detail::magnitude(x);
  double y = 1.0;
  if (a < 1.0) {
    double sum = 0.0;
    for (int n = 22; n > 0; --n) sum = -a * a / n * (1.0 / (2 * n + 1) + sum);
    y = a + a * (root_minus_1 + root * sum);
  } else if (a < 2.0) {
    const double t = a - 1.5;
    double sum = 0.0, power = t, before = 0.0, derivative = 1.0;
    for (int n = 0; n < 40; ++n) {
      sum += derivative * power / (n + 1);
      power *= t;
      const double next = (-3.0 * derivative - 2.0 * before) / (n + 1);
      before = derivative;
      derivative = next;
    }
    y = at_center + slope_at_center * sum;
  } else if (a < 6.0) {
    const double twice = 2.0 * a * a;
    double tail = twice + 129.0;
    for (int n = 32; n > 0; --n) tail = twice + (4 * n - 3) - (2 * n - 1) * (2 * n) / tail;
    y = 1.0 - root * (a * exact::exp(-a * a)) / tail;
  }
  return x == x ? detail::with_sign_of(y, x) : detail::quiet_nan();
}

/// Sine and cosine at once. Arguments beyond 2^20 in magnitude and infinities give NaN: nothing here needs
/// them, and a reduction that is right for them (Payne and Hanek 1983) costs more than it is worth.
MOEREF_HOST_DEVICE inline SinCos sin_cos(double x) {
  // pi / 2 in three parts, the first two of 33 bits, so that their products with the quadrant count are
  // exact.
  constexpr double part1 = 0x1.921fb544p+0, part2 = 0x1.0b4611a6p-34, part3 = 0x1.3198a2e037073p-69;
  const double a = detail::magnitude(x);
  const bool inside = a <= 0x1p20;
  const double v = inside ? x : 0.0;
  const double shifted = v * 0x1.45f306dc9c883p-1 + detail::kRounder, q = shifted - detail::kRounder;
  const double t = v - q * part1, w = q * part2;
  const double r = t - w, back = r - t;
  const double error = (t - (r - back)) - (w + back);  // t - w = r + error, exactly (Knuth 1997, 4.2.2)
  const double w3 = q * part3, y = r - w3;
  const SinCos both =
      detail::sin_cos_parts(y, ((r - y) - w3) + error, detail::to_bits(shifted) - detail::kRounderBits);
  const double sin = a < 0x1p-27 ? x : both.sin;  // keeps -0
  return {inside ? sin : detail::quiet_nan(), inside ? both.cos : detail::quiet_nan()};
}
MOEREF_HOST_DEVICE inline double sin(double x) { return sin_cos(x).sin; }
MOEREF_HOST_DEVICE inline double cos(double x) { return sin_cos(x).cos; }

/// sin and cos of 2 pi u for u in [0, 1]; undefined for other u. Counting in turns makes the reduction
/// exact.
MOEREF_HOST_DEVICE inline SinCos sin_cos_turns(double u) {
  const double shifted = 4.0 * u + detail::kRounder;
  const double r = u - 0.25 * (shifted - detail::kRounder);
  return detail::sin_cos_parts(r * 0x1.921fb54442d18p+2, r * 0x1.1a62633145c07p-52,
                               detail::to_bits(shifted) - detail::kRounderBits);
}

}  // namespace moeref::exact
