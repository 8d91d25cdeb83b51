// Numbers as keys that integers order.
#pragma once

#include <cstdint>

namespace moeref::cuda {

/// Numbers as unsigned integers in the same order: NaN on top, -0 equal to +0, and 0 for what is not there,
/// below -infinity.
__device__ inline unsigned order_key(float v) {
  if (v != v) return 0xffffffffu;
  const unsigned bits = v == 0.0f ? 0u : __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline std::uint64_t order_key(double v) {
  if (v != v) return ~std::uint64_t{0};
  const auto bits = v == 0.0 ? std::uint64_t{0} : static_cast<std::uint64_t>(__double_as_longlong(v));
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}
template <class Acc>
using OrderKey = decltype(order_key(Acc{}));

}  // namespace moeref::cuda
