#include "reference_cpu/arithmetic/product_kernel.hpp"

namespace moeref::kernel {
namespace {

// Vectors as wide as the registers that this file is compiled for: with AVX2 two make a row of a panel.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
using Lanes __attribute__((vector_size(kLanes * sizeof(double)), aligned(8))) = double;

/// kRows x (Width * kLanes) outputs; Width vectors per row are what the registers hold.
template <int Width>
inline void block(std::int64_t depth, const double* a, const double* b, double* c) {
  Lanes sum[kRows][Width] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const Lanes* row = reinterpret_cast<const Lanes*>(b + k * kCols);
    for (int r = 0; r < kRows; ++r)
      for (int w = 0; w < Width; ++w) sum[r][w] += a[k * kRows + r] * row[w];
  }
  for (int r = 0; r < kRows; ++r)
    for (int w = 0; w < Width; ++w) *reinterpret_cast<Lanes*>(c + r * kCols + w * kLanes) = sum[r][w];
}

}  // namespace

void MOEREF_PANEL_PRODUCT(std::int64_t depth, const double* a, const double* b, double* c) {
  constexpr int width = kLanes == 2 ? 2 : static_cast<int>(kCols) / kLanes;
  for (std::int64_t j = 0; j < kCols; j += width * kLanes) block<width>(depth, a, b + j, c + j);
}

}  // namespace moeref::kernel
