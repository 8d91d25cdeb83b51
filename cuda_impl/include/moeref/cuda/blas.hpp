// cuBLAS as the dense products of the layer use it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

struct cublasContext;

namespace moeref::cuda {

/// A cuBLAS handle for one thread at a time on the device that was current when it was made. fp32
/// accumulation everywhere, split sums too; float32 products never use TF32. With the caller's workspace
/// products are the same bits on every run and may be captured in a CUDA graph; making the handle may not.
class Blas {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

  /// Throws CudaError.
  Blas();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  /// What comes next runs on `stream` with this workspace (workspace_bytes, 256-byte aligned).
  void bind(cudaStream_t stream, void* workspace);

  cublasContext* handle() const { return handle_; }

 private:
  cublasContext* handle_ = nullptr;
};

}  // namespace moeref::cuda
