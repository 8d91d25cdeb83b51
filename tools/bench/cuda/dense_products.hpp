// The same flops as dense matrix products by cuBLAS: what a layer's time is held against.
#pragma once

#include <span>
#include <vector>

#include "tools/bench/cuda/buffers.hpp"
#include "tools/bench/products.hpp"

struct cublasContext;

namespace moeref::cuda::bench {

/// Row-major products of random matrices in the buffers' type with fp32 accumulation, with cuBLAS's own
/// choice of kernels. float32 products are multiply-adds, never TF32.
class DenseProducts {
 public:
  /// Throws CudaError.
  DenseProducts(std::span<const moeref::bench::Product> products, Buffers& memory);
  ~DenseProducts();
  DenseProducts(const DenseProducts&) = delete;

  /// Enqueues all of them on the default stream; the call's number chooses the left matrices.
  void run(int call) const;

 private:
  struct Operands {
    moeref::bench::Product size;
    InputSets left;
    void *right, *result;
  };
  DataType type_;
  cublasContext* handle_ = nullptr;
  std::vector<Operands> products_;
};

}  // namespace moeref::cuda::bench
