// A row scale s multiplies between the activation and the down projection, where it is one factor of a stored
// matrix: y = (s a) W_down^T + s b. Its gradient is then the row dot product of a with dY W_down, plus dY .
// b, and no further product is needed for it.
#include "moeref/cuda/mlp.hpp"

#include <string>

#include "cuda_impl/linear/linear.hpp"
#include "cuda_impl/memory/apart.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "cuda_impl/mlp/mlp_activation.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

void check_config(const MLPConfig& c) {
  const auto want = [](bool right, const char* field, std::int64_t value, const char* wanted) {
    if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
  };
  want(c.tokens >= 0 && c.tokens < std::int64_t{1} << 31, "tokens", c.tokens, "0 to 2^31 - 1");
  want(c.dim > 0, "dim", c.dim, "1 or more");
  want(c.inter_dim > 0, "inter_dim", c.inter_dim, "1 or more");
  check_matrix_type(c.dtype, "dtype");
  want(is_of_mlp(c.activation), "activation", static_cast<std::int64_t>(c.activation), "one of the MLP's");
}

std::size_t matrix(const MLPConfig& c) {
  return static_cast<std::size_t>(c.tokens) * static_cast<std::size_t>(c.inter_dim) * bytes_of(c.dtype);
}

struct Saved {
  void *gate = nullptr, *up;
  Saved(Arena& arena, const MLPConfig& c) {
    if (is_gated(c.activation)) gate = arena.take_bytes(matrix(c));
    up = arena.take_bytes(matrix(c));
  }
};
struct ForwardWorkspace {
  void *blas, *a;
  Saved kept;  // used when nothing is saved
  ForwardWorkspace(Arena& arena, const MLPConfig& c)
      : blas(arena.take_bytes(Blas::workspace_bytes)), a(arena.take_bytes(matrix(c))), kept(arena, c) {}
};
struct BackwardWorkspace {
  void *blas, *a, *d_gate, *d_up, *sums;
  BackwardWorkspace(Arena& arena, const MLPConfig& c)
      : blas(arena.take_bytes(Blas::workspace_bytes)),
        a(arena.take_bytes(matrix(c))),
        d_gate(arena.take_bytes(matrix(c))),
        d_up(arena.take_bytes(matrix(c))),
        sums(arena.take_bytes(column_sum_workspace_bytes(c.dim > c.inter_dim ? c.dim : c.inter_dim))) {}
};

template <class Layout>
std::size_t bytes(const MLPConfig& config) {
  check_config(config);
  return bytes_taken<Layout>(config);
}

}  // namespace

std::size_t mlp_saved_bytes(const MLPConfig& config) { return bytes<Saved>(config); }
std::size_t mlp_forward_workspace_bytes(const MLPConfig& config) { return bytes<ForwardWorkspace>(config); }
std::size_t mlp_backward_workspace_bytes(const MLPConfig& config) { return bytes<BackwardWorkspace>(config); }

void mlp_forward(const MLPConfig& c, const MLPWeights& w, const MLPInput& in, void* y, bool add_to_y,
                 void* saved, void* workspace, Blas& blas, cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  check_apart({extent("y", y, c.tokens, c.dim, c.dtype),
               {"saved", saved, saved ? mlp_saved_bytes(c) : 0},
               {"workspace", workspace, mlp_forward_workspace_bytes(c)}},
              {extent("x", in.x, c.tokens, c.dim, c.dtype)});
  Arena scratch(workspace), kept(saved);
  const ForwardWorkspace work(scratch, c);
  const Saved keep = saved ? Saved(kept, c) : work.kept;
  const LinearShape up{c.tokens, c.dim, c.inter_dim, c.dtype}, down{c.tokens, c.inter_dim, c.dim, c.dtype};
  blas.bind(stream, work.blas);
  if (is_gated(c.activation)) linear_with_bias(up, in.x, w.gate, w.gate_bias, keep.gate, blas, stream);
  linear_with_bias(up, in.x, w.up, w.up_bias, keep.up, blas, stream);
  mlp_activation(c, keep.gate, keep.up, in.row_scale, work.a, stream);
  if (w.down_bias) add_bias(c.dtype, c.tokens, c.dim, w.down_bias, in.row_scale, y, add_to_y, stream);
  linear(down, work.a, w.down, y, add_to_y || w.down_bias, blas);
}

void mlp_backward(const MLPConfig& c, const MLPWeights& w, const MLPInput& in, const void* dy,
                  const void* saved, const MLPGradients& d, void* workspace, Blas& blas,
                  cudaStream_t stream) {
  forget_earlier_errors();
  check_config(c);
  if ((in.row_scale != nullptr) != (d.row_scale != nullptr))
    throw ArgumentError("the gradient of row_scale is wanted if and only if there is a row_scale");
  check_apart({extent("the gradient of x", d.x, c.tokens, c.dim, c.dtype),
               {"workspace", workspace, mlp_backward_workspace_bytes(c)}},
              {extent("x", in.x, c.tokens, c.dim, c.dtype),
               extent("dy", dy, c.tokens, c.dim, c.dtype),
               {"saved", saved, mlp_saved_bytes(c)}});
  Arena scratch(workspace), kept(const_cast<void*>(saved));
  const BackwardWorkspace work(scratch, c);
  const Saved keep(kept, c);
  const LinearShape up{c.tokens, c.dim, c.inter_dim, c.dtype}, down{c.tokens, c.inter_dim, c.dim, c.dtype};
  blas.bind(stream, work.blas);
  linear_input_gradient(down, dy, w.down, work.a, false, blas);
  mlp_activation_gradient(c, keep.gate, keep.up, in.row_scale, work.a, work.d_gate, work.d_up, work.a,
                          d.row_scale, stream);
  if (d.row_scale && w.down_bias)
    row_dot(c.dtype, c.tokens, c.dim, dy, w.down_bias, d.row_scale, true, stream);
  linear_weight_gradient(down, dy, work.a, d.down, blas, stream);
  linear_weight_gradient(up, work.d_up, in.x, d.up, blas, stream);
  linear_input_gradient(up, work.d_up, w.up, d.x, d.add_to_x, blas);
  if (is_gated(c.activation)) {
    linear_weight_gradient(up, work.d_gate, in.x, d.gate, blas, stream);
    linear_input_gradient(up, work.d_gate, w.gate, d.x, true, blas);
  }
  if (d.gate_bias)
    column_sum(c.dtype, c.tokens, c.inter_dim, work.d_gate, nullptr, d.gate_bias, work.sums, stream);
  if (d.up_bias) column_sum(c.dtype, c.tokens, c.inter_dim, work.d_up, nullptr, d.up_bias, work.sums, stream);
  if (d.down_bias) column_sum(c.dtype, c.tokens, c.dim, dy, in.row_scale, d.down_bias, work.sums, stream);
}

}  // namespace moeref::cuda
