// The inner loop of the products. product_kernel.cpp is compiled once for each vector width; the results are
// the same for all, since every lane computes another output.
#pragma once

#include <cstdint>

namespace moeref::kernel {

inline constexpr std::int64_t kRows = 4;  ///< rows of A per panel
inline constexpr std::int64_t kCols = 8;  ///< columns of B per panel

/// c[r * kCols + j] = sum over k of a[k * kRows + r] * b[k * kCols + j], k ascending.
using PanelProduct = void (*)(std::int64_t depth, const double* a, const double* b, double* c);

void panel_product_sse2(std::int64_t depth, const double* a, const double* b, double* c);
void panel_product_avx2(std::int64_t depth, const double* a, const double* b, double* c);
void panel_product_avx512(std::int64_t depth, const double* a, const double* b, double* c);

}  // namespace moeref::kernel
