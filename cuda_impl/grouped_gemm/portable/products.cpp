#include "cuda_impl/grouped_gemm/portable/products.hpp"

#include "cuda_impl/grouped_gemm/portable/product_table.hpp"

namespace moeref::cuda::portable {
namespace {

const PortableProducts& products(DataType type) {
  return type == DataType::float32 ? kFloat32Products : kBfloat16Products;
}

}  // namespace

void up_product(const GroupedShape& g, const UpProduct& p, Activation a,
                const ActivationParameters& parameters, cudaStream_t stream) {
  products(g.dtype).activations[static_cast<int>(a)].up(g, p, parameters, stream);
}

void down_gradient_product(const GroupedShape& g, const DownGradient& p, Activation a,
                           const ActivationParameters& parameters, cudaStream_t stream) {
  products(g.dtype).activations[static_cast<int>(a)].down_gradient(g, p, parameters, stream);
}

void down_product(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  products(g.dtype).down(g, p, stream);
}

void input_gradient_product(const GroupedShape& g, const StoredProduct& p, int up_width,
                            cudaStream_t stream) {
  products(g.dtype).input_gradient(g, p, up_width, stream);
}

void weight_gradient_product(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  products(g.dtype).weight_gradient(g, p, stream);
}

}  // namespace moeref::cuda::portable
