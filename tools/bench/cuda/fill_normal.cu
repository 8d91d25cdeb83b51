#include "cuda_impl/memory/element.cuh"
#include "tools/bench/cuda/device_timing.hpp"

namespace moeref::cuda::bench {
namespace {

template <class T>
__global__ void fill(T* out, std::size_t n, float scale, unsigned seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n;
       i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned long long z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1342543de82ef95ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    float sum = 0;
    for (int k = 0; k < 4; ++k) sum += static_cast<float>((z >> (16 * k)) & 0xffff) / 65536.0f - 0.5f;
    out[i] = from_float<T>(sum * 1.7320508f * scale);
  }
}

}  // namespace

void fill_normal(void* out, std::size_t n, DataType type, float scale, unsigned seed, cudaStream_t stream) {
  if (n == 0) return;
  with_type(type, [&]<class T>() { fill<<<1024, 256, 0, stream>>>(static_cast<T*>(out), n, scale, seed); });
  check(cudaGetLastError(), "fill_normal");
}

}  // namespace moeref::cuda::bench
