#include "property_tests/layer/central_difference.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace moeref {
namespace {

constexpr std::array kSteps{
    Steps{DType::float64, 0x1p-8, 3, 0.0, 0.0, 0.05, false},
    Steps{DType::float32, 0x1p-8, 7, 0x1p-12, 0x1p11, 0.05, false},
    Steps{DType::float16, 0x1p-5, 6, 0x1p-6, 0x1p5, 0.5, true},
    Steps{DType::bfloat16, 0x1p-3, 5, 0x1p-4, 0x1p4, 0.5, true},
};

}  // namespace

std::span<const Steps> precision_steps() { return kSteps; }

/// The disagreement of the differences at h, 2h and 4h bounds the truncation: smooth terms differ by three
/// times the error of the shorter step. A kink of the clamps at distance s h, of jump J, puts J (1 - s) / 2
/// on the slope at h and shows in second differences, which then do not grow by 4: by J |2 - 3 s| in the
/// first pair and by J |2 - 3 s / 2| in the second, together by J at least. Term by term, so that kinks of
/// different tokens cannot cancel.
Difference central_difference(const Steps& steps, const std::vector<double>& at,
                              const std::function<Probe(double step)>& probe) {
  std::vector<Probe> up, down;
  for (int s = 0; s < steps.count; ++s) {
    up.push_back(probe(std::ldexp(steps.shortest, s)));
    down.push_back(probe(-std::ldexp(steps.shortest, s)));
  }
  Difference best{0.0, INFINITY};
  for (std::size_t first = 0; first + 2 < up.size(); ++first) {
    const double shortest = std::ldexp(steps.shortest, static_cast<int>(first));
    double total = 0.0, size = 0.0, truncation = 0.0;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const auto slope = [&](std::size_t s) {
        return (up[s].terms[i] - down[s].terms[i]) / (2.0 * std::ldexp(steps.shortest, static_cast<int>(s)));
      };
      const auto bend = [&](std::size_t s) { return up[s].terms[i] - 2.0 * at[i] + down[s].terms[i]; };
      total += slope(first);
      size += std::abs(slope(first));
      for (std::size_t s = first; s < first + 2; ++s)
        truncation += std::abs(slope(s) - slope(s + 1)) +
                      std::abs(4.0 * bend(s) - bend(s + 1)) / std::ldexp(steps.shortest, static_cast<int>(s));
    }
    // Steps that leave a bend of the function behind within the shortest of them see nothing of it.
    if (steps.grid > 0.0 && truncation > 0.25 * size) continue;
    const double error = truncation + (up[first].noise + down[first].noise) / (2.0 * shortest);
    if (error < best.error) best = {total, error};
  }
  return best;
}

Tensor on_grid(const Tensor& tensor, const Steps& steps) {
  Tensor out = tensor;
  for (std::int64_t i = 0; steps.grid > 0.0 && i < out.size(); ++i)
    out.set(i, std::nearbyint(tensor[i] / steps.grid) * steps.grid);
  return out;
}

Tensor direction(const Steps& steps, const Tensor& values, const Tensor& gradient,
                 std::span<const double> normals) {
  Tensor out(DType::float64, values.shape());
  const double unit = steps.grid / steps.shortest, longest = std::ldexp(steps.shortest, steps.count - 1);
  for (std::int64_t i = 0; i < out.size(); ++i) {
    double along = normals[static_cast<std::size_t>(i)];
    if (steps.along_gradient)
      along = along < 0.0 ? 0.0 : gradient[i] < 0.0 ? -along - unit / 2.0 : along + unit / 2.0;
    if (steps.grid > 0.0) {
      along = std::nearbyint(along / unit) * unit;
      if (std::abs(values[i]) + longest * std::abs(along) > steps.most) along = 0.0;
    }
    out.set(i, along);
  }
  return out;
}

}  // namespace moeref
