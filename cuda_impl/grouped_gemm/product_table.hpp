// What a way of computing the grouped products consists of: one table per way and element type, which
// product_kinds.hpp lists.
#pragma once

#include <array>
#include <utility>

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"

namespace moeref::cuda {

/// The products with an activation in their epilogue.
struct ActivationProducts {
  void (*up)(const GroupedShape&, const UpProduct&, const ActivationParameters&, cudaStream_t);
  void (*down_gradient)(const GroupedShape&, const DownGradient&, const ActivationParameters&, cudaStream_t);
};

using ProductsByActivation = std::array<const ActivationProducts*, kActivationCount>;

struct GroupedProducts {
  ProductsByActivation activations;
  void (*down)(const GroupedShape&, const StoredProduct&, cudaStream_t);
  void (*input_gradient)(const GroupedShape&, const StoredProduct&, int up_width, cudaStream_t);
  void (*weight_gradient)(const GroupedShape&, const WeightGradient&, cudaStream_t);
  /// Null where a way has none.
  void (*whole_pass)(const GroupedShape&, const WholePass&, Activation, const ActivationParameters&,
                     cudaStream_t) = nullptr;
};

/// Of<A>::products for the first `Count` activations A; null for the others.
template <template <Activation> class Of, int Count = kActivationCount>
constexpr ProductsByActivation by_activation() {
  return []<int... A>(std::integer_sequence<int, A...>) {
    return ProductsByActivation{&Of<static_cast<Activation>(A)>::products...};
  }
  (std::make_integer_sequence<int, Count>{});
}

}  // namespace moeref::cuda
