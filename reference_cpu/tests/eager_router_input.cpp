// The gate's input of the eager port: its noise and its root-mean-square norm, and the way back through both.
#include <cmath>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {

Matrix jittered(const Workspace& w, const Matrix& x, const Tensor& noise) {
  const Matrix n = w.load(noise, x.cols, noise.dtype());
  Matrix out = w.make(x.rows, x.cols, x.stored);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i) out.set(t, i, x.at(t, i) * n.at(t, i));
  return out;
}

static double inverse_root_of(std::int64_t width) { return 1.0 / std::sqrt(static_cast<double>(width)); }

Matrix normed_input(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                    DType compute) {
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  return rms_norm(w, x, s, c.router_input_norm_eps, inverse_root_of(c.dim), compute);
}

Matrix normed_input_gradient(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                             const Matrix& d, const std::string& name, NamedTensors& out) {
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  Matrix to_scale;
  Matrix dx = rms_norm_gradient(w, x, s, c.router_input_norm_eps, inverse_root_of(c.dim), d, to_scale);
  if (!name.empty()) out[name] = to_tensor(w.sum_rows(to_scale), scale.shape(), scale.dtype());
  return dx;
}

}  // namespace moeref::eager
