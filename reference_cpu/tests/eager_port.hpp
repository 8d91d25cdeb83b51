// An independent, plain implementation of the components, written from the specification alone, that does
// what an eager framework does in the call's precision. It is what the reference's bounds are tested with: an
// honest port must pass.
#pragma once

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"
#include "reference_cpu/tests/eager_arithmetic.hpp"

namespace moeref::eager {

struct PortOptions {
  bool fused =
      false;  ///< float inside, rounded only where a stage's tensor is stored; else every operation rounds
  Order order = Order::forward;
  bool weights_in_float =
      false;  ///< experts see the routing weights in float, as the grouped product's path has them
  /// Significant bits to which operands of products of float32 tensors are rounded: 11 for TF32; 0 = all.
  int operand_bits = 0;
};

/// One expert's part of "_codes" [E, N, K] and "_scales" [E, N / 128, K / 128] of fp8_e4m3_block128.
struct CodedWeights {
  const Tensor& codes;
  const Tensor& scales;
  std::int64_t expert;
};

/// Matrices and products under one set of options.
class Workspace {
 public:
  explicit Workspace(PortOptions options) : o(options) {}

  Matrix make(std::int64_t rows, std::int64_t cols, DType t) const { return {rows, cols, t, o.fused}; }
  /// `rows` x `cols` elements from `first` on, cast to `t`.
  Matrix load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols, DType t) const;
  Matrix load(const Tensor& tensor, std::int64_t cols, DType t) const;
  Matrix cast_to(const Matrix& m, DType t) const;

  /// op(A) op(B) accumulated in float (double), stored in `t`.
  Matrix multiply(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, DType t) const;
  /// x W^T (+ b).
  Matrix linear(const Matrix& x, const Matrix& weight, const Matrix* bias) const;
  Matrix sum_rows(const Matrix& m) const;
  /// Several matrices of one shape that meet in one tensor.
  Matrix accumulated(const std::vector<Matrix>& terms, DType t) const;

  /// Rows [M, K], quantised as `activations` says, times W [K, N] in float (double where t is), stored in
  /// `t`.
  Matrix quantised_product(const Matrix& rows, const Matrix& weights, DType t) const;
  /// The same with the codes of an expert's weights, added up as Hopper's FP8 tensor cores do.
  Matrix tensor_core_product(const Matrix& rows, const CodedWeights& weights, DType t) const;

  PortOptions o;
  ActivationFormat activations = ActivationFormat::none;
  const NamedTensors* codes = nullptr;  ///< the call's tensors, where its sums are those of tensor cores
};

Tensor to_tensor(const Matrix& m, Shape shape, DType dtype);

/// One token set's routing.
struct Routed {
  std::vector<std::int64_t> ids;
  Matrix weights;
  std::vector<bool> mask;
};

/// Of the sequence of each token: f [T][E] and n [T], divided by the number of sequences.
struct AuxLossResult {
  double loss = 0.0;
  std::vector<std::vector<Num>> f;
  std::vector<double> n;
};

/// A loss of the gate, and its coefficient.
struct GateLoss {
  const char* name;
  double coefficient;
  AuxLossResult result;
};

struct GateResult {
  Matrix logits, scores, weights;  ///< scores as the auxiliary loss sees them
  std::vector<std::int64_t> ids, dispatched, load;
  std::vector<std::vector<Num>> unbiased;  ///< what is ordered [T][E], without the correction bias
  double z_loss = 0.0;
  // What the backward pass needs.
  Matrix x, weight;               ///< in the compute type
  Matrix plain;                   ///< S before normalisation, in its own type
  Matrix activated;               ///< what the score function gave
  Matrix selected;                ///< k values before normalisation
  Matrix given;                   ///< the tokens before they are normalised
  const Tensor* noise = nullptr;  ///< that they were multiplied by
  Matrix unscaled;  ///< routing weights before per_expert_scale, in the type of S before normalisation
  std::vector<GateLoss> losses;  ///< by the experts' loads
};

GateResult gate_forward(const Workspace&, const MoEConfig&, const CallOptions&, const NamedTensors&,
                        const std::string& prefix, const Matrix& x, const std::vector<bool>& mask,
                        const Tensor* replay, const std::vector<Num>* correction);
/// Returns dx and puts parameter gradients under "grads/{prefix}".
Matrix gate_backward(const Workspace&, const MoEConfig&, const CallOptions&, const NamedTensors&,
                     const std::string& prefix, const std::vector<bool>& mask, const GateResult&,
                     const Matrix& dw, DType x_type, NamedTensors& out);

AuxLossResult aux_loss(const Workspace&, const MoEConfig&, const Matrix& scores,
                       const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                       const Tensor* accumulated);
std::vector<std::int64_t> load_of(const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                  std::int64_t k, std::int64_t experts);

/// act(h) (p) of one row, and its gradients by h and by p.
std::vector<Num> activate(const MoEConfig&, const std::vector<Num>& h, Num p);
std::vector<Num> activation_gradient(const MoEConfig&, const std::vector<Num>& h, Num p,
                                     const std::vector<Num>& d, Order order, DType weight_type, Num& d_p);

/// Returns y; with `dy`, the gradients too.
Matrix experts(const Workspace&, const MoEConfig&, const ParallelOptions&, const NamedTensors&,
               const std::string& prefix, const Matrix& x, const Routed& routed, const Matrix* dy,
               std::vector<Matrix>& dx_parts, Matrix& dweights, NamedTensors& out);

/// Returns y; with `dy`, the gradients too.
Matrix mlp(const Workspace&, const MLPConfig&, const NamedTensors&, const std::string& prefix,
           const Matrix& x, const Matrix* dy, std::vector<Matrix>& dx_parts, NamedTensors& out);

/// Rows over their root mean square, times weight [1, C] and `factor`, in `stored`.
Matrix rms_norm(const Workspace&, const Matrix& x, const Matrix& weight, double eps, double factor,
                DType stored);
/// Returns dx; row by row the terms of the weight's gradient go to `to_weight`.
Matrix rms_norm_gradient(const Workspace&, const Matrix& x, const Matrix& weight, double eps, double factor,
                         const Matrix& d, Matrix& to_weight);

class EagerPort final : public Implementation {
 public:
  explicit EagerPort(PortOptions options) : w_(options) {}
  std::string name() const override { return w_.o.fused ? "fused" : "eager"; }
  std::optional<std::string> unsupported(const Call& call) const override;
  NamedTensors run(const Call& call) override;

 private:
  void gate(const Call&, NamedTensors& out) const;
  void aux_loss_component(const Call&, NamedTensors& out) const;
  void bias_update(const Call&, NamedTensors& out) const;
  void mlp_component(const Call&, NamedTensors& out) const;
  void experts_component(const Call&, NamedTensors& out) const;
  void moe(const Call&, NamedTensors& out) const;
  Workspace w_;
};

}  // namespace moeref::eager
