// The CUDA implementation over the emulated runtime as a port: libmoeref_cuda_emulated_port.so. It plays the
// ranks of a call as threads of one process, as it does where devices are fewer.
#include "implementation/cuda_implementation.hpp"
#include "port_abi/implementation_as_port.hpp"

namespace {

moeref::cuda::CudaImplementation& implementation() {
  static moeref::cuda::CudaImplementation the_one;
  return the_one;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  return moeref::run_with(implementation(), call, error, size);
}
std::int32_t supports(const moeref_call* call, char* reason, std::size_t size) {
  return moeref::supports_with(implementation(), call, reason, size);
}

constexpr const char* kDTypes[] = {"float32", "bfloat16", nullptr};

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port out = moeref::table_of_ours("moeref CUDA, emulated", MOEREF_VERSION);
    out.dtypes = kDTypes;
    out.accumulation = "float32";
    out.max_ranks = 64;
    out.supports = supports;
    out.run = run;
    return out;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
