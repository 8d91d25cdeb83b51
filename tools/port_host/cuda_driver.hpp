// The few functions of the CUDA driver that the host of a port needs, looked up when a port asks for them:
// moeref itself is built without CUDA, and runs where there is none. They work in the device's primary
// context, which is the one that the runtime API of the port uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace moeref {

/// A call of the driver failed; the text names it.
struct CudaDriverError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One of the devices that CUDA_VISIBLE_DEVICES leaves. Every function throws CudaDriverError.
class CudaDriver {
 public:
  using Address = std::uint64_t;  // CUdeviceptr

  /// Loads libcuda.so.1.
  CudaDriver();

  int device_count() const;
  /// Of the functions below, which need it, and makes its context current.
  void use_device(int ordinal);

  /// A port may have changed what is current.
  void make_current() const;

  Address allocate(std::size_t size) const;
  void free(Address address) const;

  /// A stream that does not wait for the legacy default stream, nor that for it.
  void* create_stream() const;
  void copy_to_device(Address to, const void* from, std::size_t size, void* stream) const;
  void copy_from_device(void* to, Address from, std::size_t size, void* stream) const;
  void wait_for(void* stream) const;

 private:
  using Status = int;  // CUresult
  struct Functions {
    Status (*init)(unsigned);
    Status (*device_get_count)(int*);
    Status (*device_get)(int*, int);
    Status (*primary_context_retain)(void**, int);
    Status (*context_set_current)(void*);
    Status (*memory_allocate)(Address*, std::size_t);
    Status (*memory_free)(Address);
    Status (*stream_create)(void**, unsigned);
    Status (*copy_to_device)(Address, const void*, std::size_t, void*);
    Status (*copy_from_device)(void*, Address, std::size_t, void*);
    Status (*stream_synchronize)(void*);
    Status (*error_string)(Status, const char**);
  };

  void check(Status status, const char* what) const;

  Functions f_{};
  void* context_ = nullptr;
};

}  // namespace moeref
