// Each product to the kernels of the shape's path.
#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"

#include "cuda_impl/grouped_gemm/portable/products.hpp"
#include "cuda_impl/grouped_gemm/sm90/products.hpp"

namespace moeref::cuda {

void up_product(const GroupedShape& g, const UpProduct& p, Activation a,
                const ActivationParameters& parameters, cudaStream_t stream) {
  (g.path == ExpertsPath::portable ? portable::up_product : sm90::up_product)(g, p, a, parameters, stream);
}

void down_gradient_product(const GroupedShape& g, const DownGradient& p, Activation a,
                           const ActivationParameters& parameters, cudaStream_t stream) {
  (g.path == ExpertsPath::portable ? portable::down_gradient_product : sm90::down_gradient_product)(
      g, p, a, parameters, stream);
}

void down_product(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  (g.path == ExpertsPath::portable ? portable::down_product : sm90::down_product)(g, p, stream);
}

void input_gradient_product(const GroupedShape& g, const StoredProduct& p, int up_width,
                            cudaStream_t stream) {
  (g.path == ExpertsPath::portable ? portable::input_gradient_product : sm90::input_gradient_product)(
      g, p, up_width, stream);
}

void weight_gradient_product(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  (g.path == ExpertsPath::portable ? portable::weight_gradient_product : sm90::weight_gradient_product)(
      g, p, stream);
}

}  // namespace moeref::cuda
