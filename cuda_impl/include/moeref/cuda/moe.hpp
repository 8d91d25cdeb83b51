// The MoE layer (SPEC.md 6): gate, routed experts, latent projections, shared experts with their gate,
// padding; forward and backward, on one device or with the routed experts spread over the ranks of a group.
//
// No call synchronises or looks at values on the host; a whole training step may be captured in a CUDA graph
// and replayed with other contents of the same buffers. The same bits on every run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/blas.hpp"
#include "moeref/cuda/expert_parallel.hpp"
#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/fake_balanced_gate.hpp"
#include "moeref/cuda/gate.hpp"
#include "moeref/cuda/mlp.hpp"

namespace moeref::cuda {

/// Where rows of the latent size are divided by their root mean square (SPEC.md 10).
enum class LatentNorm { none, before_fc2, after_fc1 };

struct LayerConfig {
  GateConfig gate;  // with dim = D and x_type = the layer's type
  // The same tokens, slots, experts with identity_experts; dim = the latent size, or D. With another dtype
  // than the layer's their input and dy are rounded to it, y and the gradient of x come back from it, and
  // their weights and gradients of weights are of it.
  ExpertsConfig experts;
  bool latent = false;                        // fc1 and fc2 around the experts
  LatentNorm latent_norm = LatentNorm::none;  // with `latent`
  double latent_norm_eps = 1e-5;              // above 0
  bool fake_balanced_gate =
      false;  // in the gate's place: no scores, no load, no auxiliary loss, no gradients
  double fake_gate_noise = 0.0;
  int shared_inter_dim = 0;                           // width of the shared experts' MLP, 0 = none
  Activation shared_activation = Activation::swiglu;  // is_of_mlp()
  float shared_swiglu_limit = 0.0f;
  float shared_situ_beta = 4.0f, shared_situ_linear_beta = 25.0f;
  bool shared_gate = false;  // the shared output times sigmoid(x w_sg^T)

  // With expert_ranks > 1 each rank's `experts` weights and gradients are those of its own E / n experts; its
  // tokens, and all else, are its own. See moeref/cuda/expert_parallel.hpp.
  int expert_ranks = 1;
  std::int64_t max_tokens = 0;  // of any rank
  Exchange exchange = Exchange::all_to_all;
  int expert_chunks = 1;
  std::int64_t max_expert_rows = 0;        // see ExpertParallelConfig::max_rows
  std::int64_t max_expert_token_rows = 0;  // see ExpertParallelConfig::max_token_rows

  DataType dtype() const { return gate.x_type; }
  bool converts() const { return experts.dtype != dtype(); }
  /// Whether experts get other ids than were selected.
  bool drops_slots() const { return gate.capacity.drops_slots() && !fake_balanced_gate; }
  ExpertParallelConfig expert_parallel() const {
    return {experts,       expert_ranks,    max_tokens,           exchange,
            expert_chunks, max_expert_rows, max_expert_token_rows};
  }
};

/// The groups that a rank's layer runs in; null and empty where it runs alone. Both passes are collective
/// over them.
struct LayerGroups {
  Group* expert = nullptr;             // of expert_ranks
  ExpertParallelWindows windows = {};  // sizes by expert_parallel()
  Group* context = nullptr;  // ranks whose tokens are one sequence: their losses and the gradients of these
                             // are those of all tokens (SPEC.md 3.4, 10)
};

/// Null where the config or the absence of biases leaves one out. Matrices in the layer's type, the gate's
/// and the routed experts' in their own.
struct LayerWeights {
  GateParameters gate{nullptr};
  ExpertsWeights experts{};
  MLPWeights shared{};
  const void* shared_gate = nullptr;                      // w_sg [1, D]
  const void *fc1_weight = nullptr, *fc1_bias = nullptr;  // [L, D], [L]
  const void *fc2_weight = nullptr, *fc2_bias = nullptr;  // [D, L], [D]
  const void* latent_norm = nullptr;                      // [L]
};

struct LayerInput {
  const void* x;                               // [T, D]
  const std::uint8_t* padding_mask = nullptr;  // [T], 1 = padding: gate and experts skip it; or null
  const int* replay_ids = nullptr;     // [T, k] ids to use instead of a selection, see GateInput; or null
  FakeGateDraws fake_draws = {};       // for the fake gate with noise, or nulls: its own stream
  const void* router_noise = nullptr;  // [T, D], with gate.router_jitter
  const std::int64_t* accumulated_load = nullptr;  // [E], see GateInput
};

/// Any but `y` may be null. The fake gate gives ids and weights, the latter in the layer's type. The load is
/// that of this rank's tokens.
struct LayerOutput {
  void* y;
  int* ids = nullptr;             // [T, k]
  void* weights = nullptr;        // [T, k] in gate.weights_type()
  std::int64_t* load = nullptr;   // [E]
  float* aux_loss = nullptr;      // one number, if gate.has_aux_loss()
  float* z_loss = nullptr;        // one number, if gate.has_z_loss()
  int* dispatched_ids = nullptr;  // [T, k] those that experts get, if gate.capacity.drops_slots()
  float* batch_loss = nullptr;    // one number each, if gate.has_batch_loss()
  float* global_loss = nullptr;   // and gate.has_global_loss()

  GateLosses losses() const { return {aux_loss, batch_loss, global_loss, z_loss}; }
};

/// Same places as the weights; null where there is none. With a null gate weight the gate is frozen: its own
/// gradients are not computed, what flows through it to x is.
struct LayerGradients {
  void* x;  // [T, D]
  void *gate_weight = nullptr, *gate_bias = nullptr, *gate_input_scale = nullptr,
       *gate_expert_scale = nullptr;
  ExpertsGradients experts{};  // x and weights are not used
  MLPGradients shared{};       // x and row_scale are not used
  void* shared_gate = nullptr;
  void *fc1_weight = nullptr, *fc1_bias = nullptr, *fc2_weight = nullptr, *fc2_bias = nullptr;
  void* latent_norm = nullptr;
};

/// Bytes that forward saves for backward: H of the routed experts [T k, up_width] and of the shared ones [T,
/// I_s] once or twice; with a latent size the experts' input and output [T, L], and one of them
/// once more under latent_norm; metadata: the logits [T, E],
/// ids and weights [T, k], 16 bytes per slot of permutation, the token mask [T] and the shared gate [T]. X is
/// the caller's.
std::size_t layer_saved_bytes(const LayerConfig& config);
std::size_t layer_forward_workspace_bytes(const LayerConfig& config);
std::size_t layer_backward_workspace_bytes(const LayerConfig& config);

/// `saved` (256-byte aligned) may be null when no backward follows: nothing is kept then, H not written.
/// Arrays that are written share no bytes with each other or with those that are read, in both passes.
/// Throws ArgumentError naming a field that is out of range or differs between the parts, CudaError when a
/// call fails.
void layer_forward(const LayerConfig& config, const LayerWeights& weights, const LayerInput& input,
                   const LayerOutput& output, void* saved, void* workspace, Blas& blas, cudaStream_t stream,
                   const LayerGroups& groups = {});

/// Gradients for the cotangent dy [T, D], after layer_forward with the same config, weights, input, groups
/// and `saved`. Those of parameters that every rank has are this rank's part, to be summed by the caller.
void layer_backward(const LayerConfig& config, const LayerWeights& weights, const LayerInput& input,
                    const void* dy, const void* saved, const LayerGradients& gradients, void* workspace,
                    Blas& blas, cudaStream_t stream, const LayerGroups& groups = {});

}  // namespace moeref::cuda
