// The device side of one call: its tensors, a stream, workspaces, and guard regions around all of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/experts.hpp"
#include "moeref/tensor.hpp"

namespace moeref::cuda {

/// Whether activations and parameters may have it.
bool is_computed(DType dtype);

/// The type on the device of a tensor of the call. Throws ArgumentError for a type that no kernel reads.
DataType data_type(DType dtype);
/// Its inverse; int32 too is int64 on the host.
DType host_dtype(DataType type);

/// A dense row-major array on the device. Memory belongs to the DeviceContext that made it; 256-byte aligned.
struct DeviceTensor {
  void* data = nullptr;  ///< null for an absent optional tensor; never null otherwise, even with 0 elements
  DataType type = DataType::float32;
  Shape shape;

  std::int64_t size() const { return element_count(shape); }
  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

struct CallRanks;

struct DeviceOptions {
  ExpertsPath experts_path = ExpertsPath::automatic;
};

/// Everything is queued on one stream. Outputs and workspaces start as 0xff bytes: NaN as floats, -1 as
/// integers, so that what no kernel writes is seen. All memory goes back when the context ends.
class DeviceContext {
 public:
  /// `ranks`: those that make the call together, null for one alone.
  explicit DeviceContext(const DeviceOptions& options = {}, const CallRanks* ranks = nullptr);
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  cudaStream_t stream() const { return stream_; }
  const DeviceOptions& options() const { return options_; }
  const CallRanks* ranks() const { return ranks_; }

  /// The tensor's values as `type`, rounded to nearest even. Integers may become int32, which expert ids
  /// are on the device.
  DeviceTensor upload(const Tensor& tensor, DataType type);
  /// The same, or an absent tensor for null.
  DeviceTensor upload(const Tensor* tensor, DataType type);
  DeviceTensor output(DataType type, Shape shape);
  /// Holds zeros.
  DeviceTensor zeros(DataType type, Shape shape);
  void* workspace(std::size_t bytes);

  /// Waits for the stream. Integers become int64, uint8 becomes bool.
  Tensor download(const DeviceTensor& tensor);

  /// Throws CudaError when any byte before or after an array was overwritten. Waits for the stream.
  void check_guards();

 private:
  struct Allocation {
    char* data;
    std::size_t bytes;
  };
  void* allocate(std::size_t bytes, int fill);

  DeviceOptions options_;
  const CallRanks* ranks_;
  cudaStream_t stream_ = nullptr;
  std::vector<Allocation> allocations_;
};

}  // namespace moeref::cuda
