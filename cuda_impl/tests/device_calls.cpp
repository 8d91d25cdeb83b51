// The linker brings the program's calls of these functions here: `kernel<<<>>>` is __cudaLaunchKernel since
// CUDA 13, before that cudaLaunchKernel. What the runtime and NCCL call by themselves stays theirs.
#include "cuda_impl/tests/device_calls.hpp"

#include <atomic>

namespace {

thread_local std::function<cudaError_t()> before_launch;
std::atomic<std::int64_t> allocations = 0;

bool may_launch() { return !before_launch || before_launch() == cudaSuccess; }
constexpr dim3 kNoBlocks(0, 0, 0);  // the runtime refuses it, and remembers the error as it does others

}  // namespace

namespace moeref::cuda::test {

BeforeLaunches::BeforeLaunches(std::function<cudaError_t()> step) { before_launch = std::move(step); }
BeforeLaunches::~BeforeLaunches() { before_launch = nullptr; }

std::int64_t device_memory_held() { return allocations; }

}  // namespace moeref::cuda::test

extern "C" {

[[gnu::weak]] cudaError_t __real___cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t,
                                                    cudaStream_t);
[[gnu::weak]] cudaError_t __real_cudaLaunchKernel(const void*, dim3, dim3, void**, std::size_t, cudaStream_t);
cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**);
cudaError_t __real_cudaMalloc(void**, std::size_t);
cudaError_t __real_cudaFree(void*);

cudaError_t __wrap___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                                      std::size_t shared_bytes, cudaStream_t stream) {
  return __real___cudaLaunchKernel(kernel, may_launch() ? grid : kNoBlocks, block, arguments, shared_bytes,
                                   stream);
}
cudaError_t __wrap_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                                    std::size_t shared_bytes, cudaStream_t stream) {
  return __real_cudaLaunchKernel(kernel, may_launch() ? grid : kNoBlocks, block, arguments, shared_bytes,
                                 stream);
}
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                       void** arguments) {
  cudaLaunchConfig_t asked = *config;
  if (!may_launch()) asked.gridDim = kNoBlocks;
  return __real_cudaLaunchKernelExC(&asked, kernel, arguments);
}
cudaError_t __wrap_cudaMalloc(void** memory, std::size_t bytes) {
  const cudaError_t status = __real_cudaMalloc(memory, bytes);
  if (status == cudaSuccess) ++allocations;
  return status;
}
cudaError_t __wrap_cudaFree(void* memory) {
  const cudaError_t status = __real_cudaFree(memory);
  if (memory != nullptr && status == cudaSuccess) --allocations;
  return status;
}
}
