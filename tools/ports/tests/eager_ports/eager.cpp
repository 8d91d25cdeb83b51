// The eager port (reference_cpu/tests/eager_port.hpp) as a library, in the variants that CMakeLists.txt
// names: honest ports that differ by their arithmetic alone, and one that declares more than it keeps.
#include "moeref/error.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "tools/own_ports/implementation_as_port.hpp"

namespace {

using moeref::eager::Order;

class Eager final : public moeref::Implementation {
 public:
  std::string name() const override { return MOEREF_EAGER_NAME; }
  std::optional<std::string> unsupported(const moeref::Call& call) const override {
    if (moeref::parse_call_options(call.options).fake_balanced_gate) return "it has no balanced gate";
    return plain_.unsupported(call);
  }
  moeref::NamedTensors run(const moeref::Call& call) override {
    const moeref::Tensor* x = moeref::find(call.tensors, "inputs/x");
    const bool large = MOEREF_EAGER_MOODY && x && x->size() > 0 && x->size() / x->shape().back() > 32;
    return large ? other_.run(call) : plain_.run(call);
  }

 private:
  moeref::eager::EagerPort plain_{{MOEREF_EAGER_FUSED, MOEREF_EAGER_FUSED ? Order::pairwise : Order::forward,
                                   MOEREF_EAGER_FUSED, MOEREF_EAGER_BITS}};
  moeref::eager::EagerPort other_{{MOEREF_EAGER_FUSED, Order::backward, MOEREF_EAGER_FUSED}};
};

Eager& the_port() {
  static Eager port;
  return port;
}

std::int32_t run(const moeref_call* call, char* error, std::size_t size) {
  return moeref::run_with(the_port(), call, error, size);
}
std::int32_t supports(const moeref_call* call, char* reason, std::size_t size) {
  return moeref::supports_with(the_port(), call, reason, size);
}

constexpr const char* kComponents[] = {"gate", "aux_loss", "bias_update", "mlp", "experts", "moe", nullptr};
constexpr const char* kDTypes[] = {"float32", "bfloat16", "float16", nullptr};
constexpr const char* kStages[] = {"logits", "scores", nullptr};

}  // namespace

extern "C" const moeref_port* moeref_port_entry(std::uint32_t abi_version) {
  static const moeref_port port = [] {
    moeref_port out = moeref::table_of_ours(MOEREF_EAGER_NAME, "1.0");
    out.components = kComponents;
    out.dtypes = kDTypes;
    out.stages = MOEREF_EAGER_HIDES ? nullptr : kStages;
    out.ties = MOEREF_TIES_OPEN;
    out.accumulation = "float32";
    out.max_ranks = 1024;
    out.supports = supports;
    out.run = run;
    out.batch_invariant = 1;
    out.products = MOEREF_EAGER_PRODUCTS;
    return out;
  }();
  return abi_version == MOEREF_PORT_ABI_VERSION ? &port : nullptr;
}
