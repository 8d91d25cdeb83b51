#include "cuda_impl/adaptors/cuda_implementation.hpp"

#include <array>
#include <vector>

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_ranks.hpp"
#include "moeref/cuda/device.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/call/conventions.hpp"

namespace moeref::cuda {
namespace {

struct Adaptor {
  Component component;
  NamedTensors (*run)(const Call&, DeviceContext&);
  std::optional<std::string> (*unsupported)(const Call&);
  bool on_ranks = false;
};

constexpr std::array kAdaptors{
    Adaptor{Component::gate, run_gate, unsupported_gate, true},
    Adaptor{Component::aux_loss, run_aux_loss, unsupported_aux_loss},
    Adaptor{Component::bias_update, run_bias_update, unsupported_bias_update, true},
    Adaptor{Component::fake_balanced_gate, run_fake_balanced_gate, unsupported_fake_balanced_gate},
    Adaptor{Component::mlp, run_mlp, unsupported_mlp},
    Adaptor{Component::experts, run_experts, unsupported_experts, true},
    Adaptor{Component::moe, run_moe, unsupported_moe, true},
    Adaptor{Component::init, run_init, unsupported_init},
    Adaptor{Component::metrics, run_metrics, unsupported_metrics},
};

const std::vector<std::string>& conventions() {
  static const std::vector<std::string> all(kCudaConventions.begin(), kCudaConventions.end());
  return all;
}

const Adaptor& adaptor(Component component) {
  for (const Adaptor& a : kAdaptors)
    if (a.component == component) return a;
  throw ArgumentError("component '" + std::string(name(component)) + "' has no CUDA adaptor");
}

}  // namespace

std::optional<std::string> unsupported_dtype(const Call& call, std::string_view tensor) {
  const Tensor* t = find(call.tensors, tensor);
  if (!t || is_computed(t->dtype())) return std::nullopt;
  return std::string(tensor) + " is " + std::string(name(t->dtype())) +
         ": the CUDA implementation computes in float32, bfloat16 and float16";
}

std::optional<std::string> unsupported_experts_type(const Call& call) {
  const std::optional<DType> compute = parse_moe_config(call.config).expert_compute_dtype;
  if (!compute || is_computed(*compute)) return std::nullopt;
  return "expert_compute_dtype is " + std::string(name(*compute)) +
         ": the CUDA implementation computes in float32, bfloat16 and float16";
}

std::optional<std::string> CudaImplementation::unsupported(const Call& call) const {
  if (auto unknown = undeclared_convention(call, "the CUDA implementation", conventions())) return unknown;
  if (auto reason = device_missing()) return reason;
  if (const std::int64_t ranks = ranks_of(call); ranks > kMaxRanks)
    return std::to_string(ranks) + " ranks: the CUDA implementation runs " + std::to_string(kMaxRanks) +
           " at most";
  return adaptor(call.component).unsupported(call);
}

NamedTensors CudaImplementation::run(const Call& call) {
  check_inputs(call);
  if (const auto unknown = undeclared_convention(call, "the CUDA implementation", conventions()))
    throw ArgumentError(*unknown);
  const Adaptor& component = adaptor(call.component);
  if (component.on_ranks && ranks_of(call) > 1) return run_on_ranks(call, options_, component.run);
  DeviceContext device(options_);
  NamedTensors out = component.run(call, device);
  device.check_guards();
  return out;
}

bool CudaImplementation::runs_on_ranks(Component component) { return adaptor(component).on_ranks; }

NamedTensors CudaImplementation::run_share(const Call& share, const std::shared_ptr<Bootstrap>& ranks) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  check(cudaSetDevice(ranks->rank() % devices), "cudaSetDevice");
  return run_together(share, ranks, options_, adaptor(share.component).run);
}

}  // namespace moeref::cuda
