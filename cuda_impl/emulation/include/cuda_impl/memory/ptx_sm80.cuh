// The emulated twin of cuda_impl/memory/ptx_sm80.cuh: the same functions, from the same layouts of fragments.
// Copies arrive when their group is waited for, so that reading too early is seen.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "emulated/device.hpp"
#include "emulated/shared_copies.hpp"

namespace moeref::cuda {

/// Offsets from the block's dynamic shared memory: an address here has 32 bits.
inline std::uint32_t shared_address(const void* p) { return ::emulated::shared_offset(p); }

inline void copy_async(std::uint32_t to, const void* from, bool valid) {
  ::emulated::copy_later(to, from, valid);
}
inline void commit_copies() { ::emulated::commit_copies(); }
template <int kPending>
void wait_copies() {
  ::emulated::wait_copies(kPending);
}

template <bool Transposed>
void load_matrices(std::uint32_t (&v)[4], std::uint32_t from) {
  const auto rows = ::emulated::exchange(Transposed ? "ldmatrix.trans" : "ldmatrix", 0xffffffffu, from);
  const int lane = ::emulated::self->lane, line = lane / 4, pair = lane % 4 * 2;
  const auto element = [&](int matrix, int row, int column) -> std::uint32_t {
    return static_cast<const std::uint16_t*>(::emulated::shared_memory(rows.of[matrix * 8 + row]))[column];
  };
  for (int m = 0; m < 4; ++m)
    v[m] = Transposed ? element(m, pair, line) | element(m, pair + 1, line) << 16
                      : element(m, line, pair) | element(m, line, pair + 1) << 16;
}

template <class T>
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Fragment {
    std::uint32_t a[4], b[2];
  };
  const auto all = ::emulated::exchange("mma", 0xffffffffu, Fragment{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const int lane = ::emulated::self->lane, row = lane / 4, column = lane % 4 * 2;
  const auto value = [](std::uint32_t word, int k) {
    const auto bits = static_cast<unsigned short>(k % 2 ? word >> 16 : word);
    if constexpr (std::is_same_v<T, __half>)
      return __half2float(__half{bits});
    else
      return __bfloat162float(__nv_bfloat16{bits});
  };
  for (int q = 0; q < 4; ++q) {
    float sum = d[q];
    for (int k = 0; k < 16; ++k) {  // lanes of a row and of a column hold four K of either half
      const int within = k % 8 / 2, half = k / 8;
      sum += value(all.of[row * 4 + within].a[q / 2 + 2 * half], k) *
             value(all.of[(column + q % 2) * 4 + within].b[half], k);
    }
    d[q] = sum;
  }
}

inline std::uint32_t multiply_add_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  const auto of = [](std::uint32_t pair, int half) {
    return static_cast<double>(__bfloat162float({static_cast<unsigned short>(pair >> 16 * half)}));
  };
  std::uint32_t out = 0;
  for (int half = 0; half < 2; ++half) {
    // A product of two bfloat16 fits float, and so do the sums that kernels ask for.
    const float sum = static_cast<float>(of(a, half) * of(b, half) + of(c, half));
    out |= std::uint32_t{__float2bfloat16_rn(sum).bits} << 16 * half;
  }
  return out;
}

inline float exp2_approximately(float x) {
  const float out = std::exp2(x);
  return std::fpclassify(out) == FP_SUBNORMAL ? 0.0f : out;
}
inline float reciprocal_approximately(float x) {
  const float out = 1.0f / x;
  return std::fpclassify(out) == FP_SUBNORMAL ? 0.0f : out;
}

inline unsigned long long nanoseconds() {
  return static_cast<unsigned long long>(std::chrono::steady_clock::now().time_since_epoch().count());
}

}  // namespace moeref::cuda
