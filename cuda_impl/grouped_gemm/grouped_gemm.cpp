// Each product to the kernels of the shape's path and type.
#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"

#include <iterator>

#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref::cuda {
namespace {

static_assert(has_enumerators<Activation, kActivationCount>());
static_assert(has_enumerators<ExpertsPath, 1 + std::size(kProductKinds)>(), "one row per path but automatic");

const GroupedProducts& products(const GroupedShape& g) {
  const ProductKind& kind = product_kind(g.path);
  switch (g.dtype) {
    case DataType::float32:
      return *kind.float32;
    case DataType::float16:
      return *kind.float16;
    default:
      return *kind.bfloat16;
  }
}

const ActivationProducts& products(const GroupedShape& g, Activation a) {
  return *products(g).activations[static_cast<std::size_t>(a)];
}

}  // namespace

void up_product(const GroupedShape& g, const UpProduct& p, Activation a,
                const ActivationParameters& parameters, cudaStream_t stream) {
  products(g, a).up(g, p, parameters, stream);
}

bool has_whole_pass(const GroupedShape& g, Activation a, std::int64_t tokens, int slots) {
  return products(g).whole_pass != nullptr && tokens > 0 && tokens <= few_rows::kPassTokens &&
         tokens * slots <= few_rows::kPassRows && few_rows::blocks_of_pass(g, a) > 0;
}

void whole_pass(const GroupedShape& g, const WholePass& p, Activation a,
                const ActivationParameters& parameters, cudaStream_t stream) {
  products(g).whole_pass(g, p, a, parameters, stream);
}

void down_gradient_product(const GroupedShape& g, const DownGradient& p, Activation a,
                           const ActivationParameters& parameters, cudaStream_t stream) {
  products(g, a).down_gradient(g, p, parameters, stream);
}

void down_product(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  products(g).down(g, p, stream);
}

void input_gradient_product(const GroupedShape& g, const StoredProduct& p, int up_width,
                            cudaStream_t stream) {
  products(g).input_gradient(g, p, up_width, stream);
}

void weight_gradient_product(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  products(g).weight_gradient(g, p, stream);
}

}  // namespace moeref::cuda
