#include "tools/port_host/cuda_driver.hpp"

#include <dlfcn.h>

namespace moeref {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr unsigned kNonBlocking = 1;  // CU_STREAM_NON_BLOCKING

void* open_library() {
  if (void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) return library;
  throw CudaDriverError(std::string("this machine has no CUDA driver (") + kLibrary + ")");
}

template <class Function>
void look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (!function) throw CudaDriverError(std::string(kLibrary) + " has no " + name);
}

}  // namespace

CudaDriver::CudaDriver() {
  void* const library = open_library();  // never closed: ports use it too
  look_up(library, "cuInit", f_.init);
  look_up(library, "cuDeviceGetCount", f_.device_get_count);
  look_up(library, "cuDeviceGet", f_.device_get);
  look_up(library, "cuDevicePrimaryCtxRetain", f_.primary_context_retain);
  look_up(library, "cuCtxSetCurrent", f_.context_set_current);
  look_up(library, "cuMemAlloc_v2", f_.memory_allocate);
  look_up(library, "cuMemFree_v2", f_.memory_free);
  look_up(library, "cuStreamCreate", f_.stream_create);
  look_up(library, "cuMemcpyHtoDAsync_v2", f_.copy_to_device);
  look_up(library, "cuMemcpyDtoHAsync_v2", f_.copy_from_device);
  look_up(library, "cuStreamSynchronize", f_.stream_synchronize);
  look_up(library, "cuGetErrorString", f_.error_string);
  check(f_.init(0), "cuInit");
}

int CudaDriver::device_count() const {
  int count = 0;
  check(f_.device_get_count(&count), "cuDeviceGetCount");
  return count;
}

void CudaDriver::use_device(int ordinal) {
  int device = 0;
  check(f_.device_get(&device, ordinal), "cuDeviceGet");
  check(f_.primary_context_retain(&context_, device), "cuDevicePrimaryCtxRetain");
  make_current();
}

void CudaDriver::check(Status status, const char* what) const {
  if (status == 0) return;
  const char* text = nullptr;
  f_.error_string(status, &text);
  throw CudaDriverError(std::string(what) + ": " + (text ? text : "error " + std::to_string(status)));
}

void CudaDriver::make_current() const { check(f_.context_set_current(context_), "cuCtxSetCurrent"); }

CudaDriver::Address CudaDriver::allocate(std::size_t size) const {
  Address address = 0;
  check(f_.memory_allocate(&address, size), ("cuMemAlloc of " + std::to_string(size) + " bytes").c_str());
  return address;
}

void CudaDriver::free(Address address) const { check(f_.memory_free(address), "cuMemFree"); }

void* CudaDriver::create_stream() const {
  void* stream = nullptr;
  check(f_.stream_create(&stream, kNonBlocking), "cuStreamCreate");
  return stream;
}

void CudaDriver::copy_to_device(Address to, const void* from, std::size_t size, void* stream) const {
  check(f_.copy_to_device(to, from, size, stream), "cuMemcpyHtoDAsync");
}

void CudaDriver::copy_from_device(void* to, Address from, std::size_t size, void* stream) const {
  check(f_.copy_from_device(to, from, size, stream), "cuMemcpyDtoHAsync");
}

void CudaDriver::wait_for(void* stream) const { check(f_.stream_synchronize(stream), "cuStreamSynchronize"); }

}  // namespace moeref
