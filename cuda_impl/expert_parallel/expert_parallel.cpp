// The experts' passes with an exchange of rows before and after them; moeref/cuda/expert_parallel.hpp says
// what goes on at the same time.
#include "moeref/cuda/expert_parallel.hpp"

#include "cuda_impl/expert_parallel/exchange_pass.hpp"
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/memory/apart.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

void experts_forward(const ExpertParallelConfig& c, const ExpertsWeights& w, const ExpertsInput& input,
                     void* output, Group& group, const ExpertParallelWindows& windows, void* saved,
                     void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_call(c, group, windows);
  check_aligned(input.x, "x");
  check_aligned(output, "output");
  check_apart({extent("output", output, c.experts.tokens, c.experts.dim, c.experts.dtype),
               {"saved", saved, saved ? saved_bytes(c) : 0},
               {"workspace", workspace, forward_workspace_bytes(c)}},
              {extent("x", input.x, c.experts.tokens, c.experts.dim, c.experts.dtype)});
  const auto keep = laid_out<ExpertParallelSaved>(saved, c);
  const auto work = laid_out<ExpertParallelForwardWorkspace>(workspace, c);
  ExchangePass exchange(c, group, windows, stream);
  const ForwardPass experts(c.own(), token_chunks(c), w, exchange.received(), keep.experts, work.experts);

  exchange.send_routes({input.ids, input.weights, input.token_mask}, saved ? keep.sent : work.sent,
                       work.routes);
  exchange.push_x(input.x);
  experts.sort(stream);
  exchange.tell_rows_needed(experts.rows_needed());
  exchange.for_chunks([&](int chunk) {
    experts.gather(chunk, stream);
    experts.multiply(chunk, stream);
    if (exchange.in_chunks()) exchange.send_back(experts.rows(), chunk);
  });
  if (exchange.in_chunks())
    exchange.sum_all(output, input_slots(c.experts, input, input.x));
  else
    exchange.return_rows(experts.rows(), output, input_slots(c.experts, input, input.x));
}

void experts_backward(const ExpertParallelConfig& c, const ExpertsWeights& w, const ExpertsInput& input,
                      const void* d_output, Group& group, const ExpertParallelWindows& windows,
                      const void* saved, const ExpertsGradients& d, void* workspace, cudaStream_t stream) {
  forget_earlier_errors();
  check_call(c, group, windows);
  check_aligned(d_output, "d_output");
  check_aligned(d.x, "the gradient of x");
  check_apart(
      {extent("the gradient of x", d.x, c.experts.tokens, c.experts.dim, c.experts.dtype),
       extent("the gradient of weights", d.weights, c.experts.tokens, c.experts.slots, DataType::float32),
       {"workspace", workspace, backward_workspace_bytes(c)}},
      {extent("x", input.x, c.experts.tokens, c.experts.dim, c.experts.dtype),
       extent("d_output", d_output, c.experts.tokens, c.experts.dim, c.experts.dtype),
       {"saved", saved, saved_bytes(c)}});
  const auto keep = laid_out<ExpertParallelSaved>(const_cast<void*>(saved), c);
  const auto work = laid_out<ExpertParallelBackwardWorkspace>(workspace, c);
  ExchangePass exchange(c, group, windows, stream);
  ExpertsGradients own = d;
  own.weights = work.d_weights;
  const BackwardPass experts(c.own(), token_chunks(c), w, exchange.received(), exchange.received_d_output(),
                             keep.experts, own, work.experts, RowsOfX::apart);

  exchange.recall_routes(keep.sent);
  exchange.push_d_output(d_output);
  experts.gather_x(stream);
  exchange.for_chunks([&](int chunk) {
    experts.gather_dy(chunk, stream);
    experts.activation_gradient(chunk, stream);
  });
  experts.router_weights(stream);
  experts.down_weights(stream);
  experts.input_gradient(stream);
  exchange.send_back(experts.rows(), work.d_weights);
  experts.up_weights(stream);
  exchange.sum_all(d.x, input_slots(c.experts, input, d_output));
  exchange.gather_weights({input.ids, input.weights, input.token_mask}, d.weights);
  input_slot_gradients(c.experts.dtype, input_slots(c.experts, input, input.x), d_output, c.experts.tokens,
                       c.experts.dim, d.weights, stream);
}

}  // namespace moeref::cuda
