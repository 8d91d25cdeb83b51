// The device memory of one benchmark: random inputs that rotate past the L2, parameters with their
// gradients, and whatever the calls need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda::bench {

/// Several arrays of one shape with different numbers.
struct InputSets {
  char* data = nullptr;
  std::size_t stride = 0;
  int count = 1;
  void* operator()(int call) const { return data + stride * static_cast<std::size_t>(call % count); }
};

/// A parameter and the place of its gradient; null where the layer has none.
struct Parameter {
  void *value = nullptr, *gradient = nullptr;
};

using Extents = std::initializer_list<std::int64_t>;

/// All is freed at its end. Every function throws ArgumentError for an array that no device could hold and
/// CudaError, with the size, where the device has no memory left.
class Buffers {
 public:
  /// `type` is that of inputs and parameters.
  explicit Buffers(DataType type);

  DataType type() const { return type_; }

  void* zeros(std::size_t bytes);
  template <class T>
  T* zeros_of(Extents extents) {
    return static_cast<T*>(zeros(product(extents, sizeof(T))));
  }
  void* result(Extents extents) { return zeros(product(extents, bytes_of(type_))); }
  void* normal(Extents extents, double scale, DataType type);
  Parameter parameter(Extents extents, double scale);

  /// Enough sets that what is read between two uses of one is larger than the L2.
  InputSets inputs(Extents extents, double scale);

  /// Of all parameters so far, without gradients.
  double parameter_bytes() const { return parameter_bytes_; }

 private:
  struct Free {
    void operator()(void* data) const;
  };
  static std::size_t product(Extents extents, std::size_t element);
  void* allocate(std::size_t bytes);

  DataType type_;
  std::size_t l2_bytes_ = 0, used_ = 0;
  unsigned seed_ = 0;
  double parameter_bytes_ = 0.0;
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

}  // namespace moeref::cuda::bench
