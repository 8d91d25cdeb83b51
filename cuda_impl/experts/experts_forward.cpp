// Sort, rows of X, up product with the activation, down product, unpermute; of few tokens sort, and all else
// in one launch.
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/memory/apart.hpp"
#include "cuda_impl/permutation/permute.hpp"
#include "cuda_impl/permutation/unpermute.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
ForwardPass::ForwardPass(const ExpertsConfig& c, const TokenChunks& chunks, const ExpertsWeights& w,
                         const ExpertsInput& in, void* saved, void* workspace)
    : config_(c),
      chunks_(chunks),
      weights_(w),
      input_(in),
      path_(selected_path(c)),
      h_(laid_out<Saved>(saved, c, chunks).h),
      o_(quantises(c) && c.apply_router_weight_after_down ? laid_out<Saved>(saved, c, chunks).o : nullptr),
      work_(laid_out<ForwardWorkspace>(workspace, c, chunks)),
      permutation_(
          carve_permutation(permutation_shape(c, path_, chunks),
                            saved ? laid_out<Saved>(saved, c, chunks).permutation : work_.permutation)) {
  if (reads_codes(c, path_)) work_.numbers.gate_and_up = nullptr;
  one_launch_ = !quantises(c) && c.identity_experts == 0 && chunks.count == 1 &&
                has_whole_pass(shape(0), c.activation, c.tokens, c.slots);
  check_aligned(in.x, "x");
  check_aligned(w.gate_and_up, "gate_and_up_projs");
  check_aligned(w.down, "down_projs");
  if (w.gate_and_up_bias) check_aligned(w.gate_and_up_bias, "gate_up_proj_bias");
}

void ForwardPass::sort(cudaStream_t stream) const {
  if (!product_kind(path_).streams_weights) clear_tickets(work_.tickets, stream);
  if (gathers(config_, path_))
    check(cudaMemsetAsync(work_.arrivals, 0, arrivals_bytes(permutation_shape(config_, path_, chunks_)),
                          stream),
          "cudaMemsetAsync");
  work_.numbers.make(config_, weights_, stream);
  sort_by_expert(permutation_shape(config_, path_, chunks_), input_.ids, input_.weights, input_.token_mask,
                 permutation_, work_.sort, stream,
                 {work_.progress, one_launch_ ? static_cast<int>(few_rows::progress_count(config_.dim)) : 0});
}

bool ForwardPass::takes_tokens() const {
  return product_kind(path_).streams_weights || gathers(config_, path_) ||
         (quantises(config_) && !config_.router_weight_on_input);
}

void ForwardPass::gather(int chunk, cudaStream_t stream) const {
  if (takes_tokens()) return;
  const PeriodicTokens which{config_.tokens, chunks_.period, chunks_.range(chunk)};
  if (config_.router_weight_on_input)
    permute_weighted(config_.dtype, input_.x, input_.weights, permutation_.slot_row, which, config_.slots,
                     config_.dim, work_.rows, permutation_.row_weight, stream);
  else
    permute(config_.dtype, input_.x, permutation_.slot_row, which, config_.slots, config_.dim, work_.rows,
            stream);
}

GroupedShape ForwardPass::shape(int chunk) const {
  GroupedShape shape =
      gathering(grouped_shape(config_, path_, permutation_, work_.tickets, chunk), work_.arrivals);
  shape.format = work_.numbers.format(config_);
  return shape;
}

// `rows` holds X by row, where it does not stay where it is, then the rows of the result.
UpProduct ForwardPass::up() const {
  const ExpertsWeights w = work_.numbers.instead_of(weights_);
  return {takes_tokens() ? input_.x : nullptr,
          work_.rows,
          w.gate_and_up,
          w.gate_and_up_bias,
          h_,
          work_.a,
          !config_.apply_router_weight_after_down,
          w.gate_and_up_scales};
}

StoredProduct ForwardPass::down() const {
  const ExpertsWeights w = work_.numbers.instead_of(weights_);
  return {work_.a, w.down, w.down_bias, work_.rows, config_.apply_router_weight_after_down, w.down_scales};
}

void ForwardPass::multiply(int chunk, cudaStream_t stream) const {
  if (config_.tokens == 0) return;
  if (quantises(config_)) return multiply_quantised(chunk, stream);
  up_product(shape(chunk), up(), config_.activation, config_.activation_parameters, stream);
  down_product(shape(chunk), down(), stream);
}

void ForwardPass::multiply_and_add(void* output, cudaStream_t stream) const {
  whole_pass(shape(0), {up(), down(), output, config_.tokens, config_.slots, work_.progress},
             config_.activation, config_.activation_parameters, stream);
}

void experts_forward(const ExpertsConfig& c, const ExpertsWeights& w, const ExpertsInput& in, void* output,
                     void* saved, void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_no_limit(c);
  check_aligned(output, "output");
  check_apart({extent("output", output, c.tokens, c.dim, c.dtype),
               {"saved", saved, saved ? saved_bytes(c) : 0},
               {"workspace", workspace, forward_workspace_bytes(c)}},
              {extent("x", in.x, c.tokens, c.dim, c.dtype)});
  const ForwardPass pass(c, one_chunk(c), w, in, saved, workspace);
  pass.sort(stream);
  if (pass.is_one_launch()) return pass.multiply_and_add(output, stream);
  pass.gather(0, stream);
  pass.multiply(0, stream);
  unpermute(c.dtype, pass.rows().rows, pass.rows().slot_row, c.tokens, c.slots, c.dim, output, stream,
            input_slots(c, in, in.x));
}

}  // namespace moeref::cuda
