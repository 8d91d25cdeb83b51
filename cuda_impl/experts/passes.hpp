// The two passes of the experts in their steps, for callers that move rows between ranks beside them. A step
// is queued on the stream it is given; all steps of a pass but sort() take up what earlier ones left.
#pragma once

#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/quantization/quantize_rows.hpp"

namespace moeref::cuda {

/// sort; for every chunk gather and multiply; then rows() can be combined. Or sort and multiply_and_add.
class ForwardPass {
 public:
  /// `saved` may be null. Throws ArgumentError for arrays that are not aligned.
  ForwardPass(const ExpertsConfig& config, const TokenChunks& chunks, const ExpertsWeights& weights,
              const ExpertsInput& input, void* saved, void* workspace);

  void sort(cudaStream_t stream) const;
  void gather(int chunk, cudaStream_t stream) const;    // X by row, where the up product does not do that
  void multiply(int chunk, cudaStream_t stream) const;  // up product with the activation, down product
  /// Whether multiply_and_add() serves the pass: of few tokens, and all their experts with products.
  bool is_one_launch() const { return one_launch_; }
  /// multiply() and the sums [T, D] of the tokens' rows, the same bits in one launch.
  void multiply_and_add(void* output, cudaStream_t stream) const;
  ExpertRows rows() const { return {work_.rows, permutation_.slot_row}; }
  /// After sort(), on the device: if it is more than there is room for, rows() are none.
  const int* rows_needed() const { return permutation_.rows_needed; }

 private:
  bool takes_tokens() const;  // the up product or its quantiser, where they are
  GroupedShape shape(int chunk) const;
  UpProduct up() const;
  StoredProduct down() const;
  void multiply_quantised(int chunk, cudaStream_t stream) const;
  void multiply_codes(const ChunkRows& rows, const RowSource& x, cudaStream_t stream) const;

  const ExpertsConfig config_;
  const TokenChunks chunks_;
  const ExpertsWeights weights_;
  const ExpertsInput input_;
  const ExpertsPath path_;
  void *const h_, *const o_;  // of `saved`, or null
  ForwardWorkspace work_;
  Permutation permutation_;
  bool one_launch_;
};

/// For every chunk gather_dy and activation_gradient; router_weights; down_weights; input_gradient, after
/// which rows() can be combined; gather_x and up_weights. gather_x may come at any time with RowsOfX::apart;
/// else gather_x and up_weights come between down_weights and input_gradient.
class BackwardPass {
 public:
  BackwardPass(const ExpertsConfig& config, const TokenChunks& chunks, const ExpertsWeights& weights,
               const ExpertsInput& input, const void* d_output, const void* saved,
               const ExpertsGradients& gradients, void* workspace, RowsOfX x);

  void gather_dy(int chunk, cudaStream_t stream) const;
  void activation_gradient(int chunk, cudaStream_t stream) const;  // dA', dH, A' and the parts of d_weights
  void router_weights(cudaStream_t stream) const;  // with router_weight_on_input: input_gradient's
  void down_weights(cudaStream_t stream) const;
  void gather_x(cudaStream_t stream) const;
  void up_weights(cudaStream_t stream) const;
  void input_gradient(cudaStream_t stream) const;
  ExpertRows rows() const { return {work_.rows, permutation_.slot_row}; }

 private:
  void gather(const void* tokens, RowRange range, void* rows, cudaStream_t stream) const;
  void zero_parameters(std::size_t height, std::size_t width, void* matrix, std::size_t bias_width,
                       void* bias, cudaStream_t stream) const;
  GroupedShape shape(int chunk = 0) const;

  const ExpertsConfig config_;
  const TokenChunks chunks_;
  const ExpertsWeights weights_;
  const ExpertsInput input_;
  const void* const d_output_;
  const ExpertsGradients gradients_;
  const ExpertsPath path_;
  BackwardWorkspace work_;
  const void *const h_, *const o_;
  Permutation permutation_;
};

}  // namespace moeref::cuda
