#include "reference_cpu/components/router_input.hpp"

#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

double inverse_root_of_width(const Bounded& x) { return 1.0 / std::sqrt(static_cast<double>(x.cols)); }

}  // namespace

Bounded jittered(const Bounded& x, const Bounded& noise) {
  Bounded out(x.rows, x.cols, x.dtype);
  parallel_for(x.rows, [&](std::int64_t t) {
    for (std::int64_t i = 0; i < x.cols; ++i) out.set(t, i, x.at(t, i) * noise.at(t, i));
  });
  return out;
}

const Bounded& seen_tokens(const Bounded& x, const std::optional<Bounded>& noise, Bounded& held) {
  return noise ? held = jittered(x, *noise) : x;
}

Bounded router_input(const MoEConfig& c, const Bounded& x, const Bounded& scale, DType compute) {
  if (!c.router_input_norm) return cast(x, compute);
  return rms_norm(x, scale, c.router_input_norm_eps, inverse_root_of_width(x), compute);
}

RMSNormBackward router_input_backward(const MoEConfig& c, const Bounded& x, const Bounded& scale,
                                      const Bounded& d) {
  return rms_norm_backward(x, scale, c.router_input_norm_eps, inverse_root_of_width(x), d);
}

}  // namespace moeref
