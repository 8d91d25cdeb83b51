// The products of sm_90 where there are none: choose_path never takes them on another device.
#include "cuda_impl/grouped_gemm/sm90/products.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::sm90 {
namespace {

[[noreturn]] void missing() { throw CudaError("the emulated device has no wgmma"); }

}  // namespace

void up_product(const GroupedShape&, const UpProduct&, Activation, const ActivationParameters&,
                cudaStream_t) {
  missing();
}
void down_product(const GroupedShape&, const StoredProduct&, cudaStream_t) { missing(); }
void input_gradient_product(const GroupedShape&, const StoredProduct&, int, cudaStream_t) { missing(); }
void down_gradient_product(const GroupedShape&, const DownGradient&, Activation, const ActivationParameters&,
                           cudaStream_t) {
  missing();
}
void weight_gradient_product(const GroupedShape&, const WeightGradient&, cudaStream_t) { missing(); }

}  // namespace moeref::cuda::sm90
