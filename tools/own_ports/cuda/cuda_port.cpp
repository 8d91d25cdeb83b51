// The CUDA implementation as a port, libmoeref_cuda_port.so: expert, data and context parallelism by one
// process per rank, which reach each other's memory by CUDA IPC or NCCL, or by threads of one process.
// Tensors come in memory of the CPU. Over the emulated runtime: libmoeref_cuda_emulated_port.so.
#include <string_view>
#include <vector>

#include "cuda_impl/adaptors/cuda_implementation.hpp"
#include "tools/own_ports/cuda/cuda_benchmark.hpp"
#include "tools/own_ports/cuda/exchange_bootstrap.hpp"
#include "tools/own_ports/implementation_as_port.hpp"
#include "tools/own_ports/ranks_as_port.hpp"

namespace {

using namespace moeref;

cuda::CudaImplementation& implementation() {
  static cuda::CudaImplementation the_one;
  return the_one;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) try {
  if (call->world_size == 1) return run_with(implementation(), call, error, size);
  const Call share = call_of(*call);
  if (!cuda::CudaImplementation::runs_on_ranks(share.component))
    return run_ranks_with(implementation(), call, error, size);
  const auto ranks = std::make_shared<cuda::ExchangeBootstrap>(*call->exchange);
  write_results(*call, implementation().run_share(share, ranks));
  return MOEREF_OK;
} catch (const std::exception& wrong) {
  return give_error(wrong, error, size);
}

std::int32_t supports(const moeref_call* call, char* reason, std::size_t size) {
  return supports_with(implementation(), call, reason, size);
}

const char* const* conventions() {
  static const std::vector<const char*> all = [] {
    std::vector<const char*> out;
    for (const std::string_view name : cuda::kCudaConventions) out.push_back(name.data());
    out.push_back(nullptr);
    return out;
  }();
  return all.data();
}

constexpr const char* kDTypes[] = {"float32", "bfloat16", "float16", nullptr};

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port out = table_of_ours(MOEREF_PORT_NAME, MOEREF_VERSION);
    out.dtypes = kDTypes;
    out.accumulation = "float32";
    out.conventions = conventions();
    out.max_ranks = 64;
    out.max_processes = 8;
    out.supports = supports;
    out.run = run;
    out.bench = cuda::benchmark();
    return out;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
