// One pass of one rank through the exchange: what goes on on the caller's stream, `main`, and beside it on
// the group's side stream, ordered by marks. The experts' passes and the benchmark are made of its steps.
#pragma once

#include <utility>
#include <vector>

#include "cuda_impl/expert_parallel/combine.hpp"
#include "cuda_impl/expert_parallel/layout.hpp"
#include "cuda_impl/experts/layout.hpp"

namespace moeref::cuda {

class ExchangePass {
 public:
  ExchangePass(const ExpertParallelConfig& config, Group& group, const ExpertParallelWindows& windows,
               cudaStream_t main);

  bool in_chunks() const { return chunks_.count > 1; }
  /// What this rank's experts work on, and the cotangents of its rows.
  ExpertsInput received() const;
  const void* received_d_output() const;

  /// Forward: which tokens go where, and ids and weights to their ranks, from which they go on with the rows.
  void send_routes(const DispatchInput& input, const Sent& sent, const RouteWorkspace& workspace);
  /// Backward: what forward's send_routes found.
  void recall_routes(const Sent& sent);

  /// Rows [T, D] of tokens under way to the ranks of their experts: x, or the cotangents of the output.
  void push_x(const void* x) { push(x, *windows_.kept, in_.x); }
  void push_d_output(const void* d_output) { push(d_output, *windows_.transient, back_.d_output); }
  /// Calls work(chunk) for each chunk when its rows are there, while the next one is on its way.
  template <class Work>
  void for_chunks(const Work& work) {
    for (int chunk = 0; chunk < chunks_.count; ++chunk) {
      const cudaEvent_t there = arrival_;
      if (chunk + 1 < chunks_.count) push_chunk(chunk + 1);
      group_.wait(main_, there);
      work(chunk);
    }
  }

  /// All of the experts' rows, summed for each row that was received, back to where that came from, and there
  /// summed into out [T, D], with the tokens' input slots.
  void return_rows(const ExpertRows& rows, void* out, const InputSlots& input = {});
  /// The same in two steps: rows of a chunk begin to return while main goes on, or in backward all rows with
  /// the gradients of their weights [n M, k]; and, after it did so for all, main waits for them and sums.
  void send_back(const ExpertRows& rows, int chunk);
  void send_back(const ExpertRows& rows, const float* d_weights);
  void sum_all(void* out, const InputSlots& input = {});
  /// Forward, before rows return: how many the own experts needed, for all ranks; where a rank has no room
  /// for them, all ranks find it with the rows. Nothing where there is room for the worst case, or where rows
  /// are packed, which all ranks knew before.
  void tell_rows_needed(const int* rows_needed);

  /// After sum_all(): of the weights [T, k] of this rank's tokens.
  void gather_weights(const DispatchInput& input, float* out);

 private:
  /// Whether ids and weights meet the other ranks before the rows do: the experts sort by them while rows
  /// travel. What travels in a moment saves a meeting.
  bool routes_come_first() const;
  /// `used` [n]: how many rows of each slot there are.
  Delivery rows_of(Region region, std::size_t row_bytes, RowRange range, Outbox outbox,
                   const int* used) const;

  void push(const void* rows, const Window& window, Region region);
  void push_chunk(int chunk);
  /// The sums on main, what has to be sent on `sender`, which goes on after them.
  void return_range(const ExpertRows& rows, RowRange range, Outbox outbox, const float* d_weights,
                    cudaStream_t sender);
  void meet_and_sum(void* out, const InputSlots& input);
  /// Of packed rows: all ranks tell each other how many there are, and agree on where they lie.
  void agree_on_places(const DispatchInput& input, const RouteWorkspace& workspace);
  const int* arrived() const {
    return packed_ ? sent_.rows.arrived : windows_.kept->received<int>(in_.counts);
  }

  const ExpertParallelConfig& config_;
  Group& group_;
  const ExpertParallelWindows windows_;
  const cudaStream_t main_, side_;
  const KeptRegions in_;
  const TransientRegions back_;
  const DispatchShape shape_;
  const TokenChunks chunks_;
  const std::size_t row_bytes_, numbers_bytes_;  // of a row: its numbers of D, its k ids or weights
  const bool packed_;

  Sent sent_{};
  bool rows_are_told_ = false;
  std::optional<RowCounts> counts_;  // of rows that go out
  struct {
    const void* rows;
    const Window* window;
    Region region;
  } pushed_{};
  cudaEvent_t arrival_ = nullptr;  // of the chunk that was pushed last
};

}  // namespace moeref::cuda
