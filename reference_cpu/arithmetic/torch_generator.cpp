#include "reference_cpu/arithmetic/torch_generator.hpp"

#include <bit>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "reference_cpu/arithmetic/exact_math.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kBlock = 16;

// PyTorch's binaries fuse products into sums wherever a sum takes one, so the fusions below are part of the
// rule. std::fma and std::sqrt are correctly rounded and so have the same bits everywhere.
template <std::size_t N>
float polynomial(float x, const float (&c)[N]) {  // highest coefficient first
  float y = c[0];
  for (std::size_t i = 1; i < N; ++i) y = std::fma(y, x, c[i]);
  return y;
}

// logf of Cephes, for normal x > 0.
float cephes_log(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  float e = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 127) + 1.0f;
  float m = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // [0.5, 1)
  if (m < 0.707106781186547524f) {
    e = e - 1.0f;
    m = (m - 1.0f) + m;
  } else {
    m = m - 1.0f;
  }
  const float z = m * m;
  float y = polynomial(
      m, {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
          -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f});
  y = std::fma(y * m, z, e * -2.12194440e-4f) - z * 0.5f;
  return std::fma(e, 0.693359375f, m + y);
}

struct FloatSinCos {
  float sin, cos;
};

// sinf and cosf of Cephes, for 0 <= x < 8192.
FloatSinCos cephes_sin_cos(float x) {
  std::int32_t octant = static_cast<std::int32_t>(x * 1.27323954473516f);
  octant = (octant + 1) & ~1;
  const float y = static_cast<float>(octant);
  x = std::fma(y, -0.78515625f, x);
  x = std::fma(y, -2.4187564849853515625e-4f, x);
  x = std::fma(y, -3.77489497744594108e-8f, x);
  const float z = x * x;
  const float c_poly = polynomial(z, {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f});
  const float c = std::fma(c_poly * z, z, z * -0.5f) + 1.0f;
  const float s_poly = polynomial(z, {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f});
  const float s = std::fma(s_poly * z, x, x);
  const bool swapped = (octant & 2) != 0;
  const float sin = swapped ? c : s, cos = swapped ? s : c;
  return {(octant & 4) != 0 ? -sin : sin, ((octant - 2) & 4) == 0 ? -cos : cos};
}

// Box and Muller on one block of sixteen uniforms: element j pairs with j + 8.
void transform(std::span<float, kBlock> v, float mean, float std) {
  constexpr float two_pi = static_cast<float>(2.0 * std::numbers::pi);
  for (std::size_t j = 0; j < 8; ++j) {
    const float radius = std::sqrt(-2.0f * cephes_log(1.0f - v[j]));
    const FloatSinCos angle = cephes_sin_cos(two_pi * v[j + 8]);
    v[j] = std::fma(radius * angle.cos, std, mean);
    v[j + 8] = std::fma(radius * angle.sin, std, mean);
  }
}

void transform(std::span<double, kBlock> v, double mean, double std) {
  for (std::size_t j = 0; j < 8; ++j) {
    const double radius = exact::sqrt(-2.0 * exact::log(1.0 - v[j]));
    const exact::SinCos angle = exact::sin_cos(2.0 * std::numbers::pi * v[j + 8]);
    v[j] = radius * angle.cos * std + mean;
    v[j + 8] = radius * angle.sin * std + mean;
  }
}

// PyTorch converts double to a 16-bit type through float.
double through_float(DType dtype, double x) {
  return round_to(dtype, static_cast<double>(static_cast<float>(x)));
}

// The 16-bit types: every function and operator returns the 16-bit type; the arithmetic inside is float.
void transform(DType dtype, std::span<double, kBlock> v, double mean, double std) {
  const auto round = [&](double x) { return through_float(dtype, x); };
  mean = round(mean);
  std = round(std);
  for (std::size_t j = 0; j < 8; ++j) {
    const double radius = round(exact::sqrt(round(-2.0 * round(exact::log(round(1.0 - v[j]))))));
    const exact::SinCos angle = exact::sin_cos(round(2.0 * std::numbers::pi * v[j + 8]));
    v[j] = round(round(round(radius * round(angle.cos)) * std) + mean);
    v[j + 8] = round(round(round(radius * round(angle.sin)) * std) + mean);
  }
}

template <typename T, typename Draw, typename Transform>
void fill_blocks(std::vector<T>& v, Draw draw, Transform transform_block) {
  for (T& x : v) x = draw();
  std::size_t i = 0;
  for (; i + kBlock <= v.size(); i += kBlock) transform_block(std::span<T, kBlock>(v.data() + i, kBlock));
  if (i < v.size()) {
    const std::span<T, kBlock> last(v.data() + v.size() - kBlock, kBlock);
    for (T& x : last) x = draw();
    transform_block(last);
  }
}

}  // namespace

float TorchGenerator::uniform_float() { return static_cast<float>(draw() & 0xffffffu) * 0x1p-24f; }

double TorchGenerator::uniform_double() {
  const std::uint64_t high = draw(), low = draw();
  return static_cast<double>((high << 32 | low) & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

double TorchGenerator::normal_double() {
  if (next_normal_) {
    const double normal = *next_normal_;
    next_normal_.reset();
    return normal;
  }
  const double u1 = uniform_double(), u2 = uniform_double();
  const double radius = exact::sqrt(-2.0 * exact::log1p(-u2));
  const exact::SinCos angle = exact::sin_cos(2.0 * std::numbers::pi * u1);
  next_normal_ = radius * angle.sin;
  return radius * angle.cos;
}

double TorchGenerator::uniform_element(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return uniform_double();
    case DType::float32:
      return uniform_float();
    case DType::bfloat16:
      return (draw() & 0xffu) * 0x1p-8;
    case DType::float16:
      return (draw() & 0x7ffu) * 0x1p-11;
    default:
      throw std::logic_error("TorchGenerator draws floating tensors only");
  }
}

Tensor TorchGenerator::uniform(DType dtype, const Shape& shape) {
  Tensor out(dtype, shape);
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, uniform_element(dtype));
  return out;
}

Tensor TorchGenerator::normal(DType dtype, const Shape& shape, double mean, double std) {
  if (!is_floating(dtype)) throw std::logic_error("TorchGenerator draws floating tensors only");
  Tensor out(dtype, shape);
  const auto size = static_cast<std::size_t>(out.size());
  if (out.size() < kBlock) {
    for (std::int64_t i = 0; i < out.size(); ++i) {
      const double x = normal_double() * std + mean;
      out.set(i, dtype == DType::float64 ? x : through_float(dtype, x));
    }
  } else if (dtype == DType::float32) {
    std::vector<float> v(size);
    fill_blocks(
        v, [&] { return uniform_float(); },
        [&](std::span<float, kBlock> block) {
          transform(block, static_cast<float>(mean), static_cast<float>(std));
        });
    for (std::size_t i = 0; i < size; ++i) out.set(static_cast<std::int64_t>(i), v[i]);
  } else {
    std::vector<double> v(size);
    fill_blocks(
        v, [&] { return uniform_element(dtype); },
        [&](std::span<double, kBlock> block) {
          dtype == DType::float64 ? transform(block, mean, std) : transform(dtype, block, mean, std);
        });
    for (std::size_t i = 0; i < size; ++i) out.set(static_cast<std::int64_t>(i), v[i]);
  }
  return out;
}

}  // namespace moeref
