#include "cuda_impl/expert_parallel/layout.hpp"

#include <algorithm>
#include <string>

#include "cuda_impl/experts/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

std::size_t slot_numbers(const ExpertParallelConfig& c) {
  return static_cast<std::size_t>(c.max_tokens) * static_cast<std::size_t>(c.experts.slots);
}
std::size_t slot_row_bytes(const ExpertParallelConfig& c) {
  return static_cast<std::size_t>(c.max_tokens) * static_cast<std::size_t>(c.experts.dim) *
         bytes_of(c.experts.dtype);
}

constexpr double kMostRows = 0.75;

void want_bytes(const Window& window, const char* name, std::size_t bytes) {
  if (window.bytes() < bytes)
    throw ArgumentError(std::string("the ") + name + " window has " + std::to_string(window.bytes()) +
                        " bytes: want " + std::to_string(bytes));
}

}  // namespace

void check_config(const ExpertParallelConfig& c) {
  check_config(c.experts);
  check_no_limit(c.experts);
  if (c.ranks < 1 || c.ranks > kMaxRanks || c.experts.experts % c.ranks != 0)
    throw ArgumentError("ranks is " + std::to_string(c.ranks) + ": want a divisor of experts = " +
                        std::to_string(c.experts.experts) + ", " + std::to_string(kMaxRanks) + " at most");
  const int own = c.experts.experts / c.ranks, most_chunks = kMostGroups / own;
  if (c.chunks < 1 || c.chunks > most_chunks)
    throw ArgumentError("chunks is " + std::to_string(c.chunks) + ": want 1 to " +
                        std::to_string(most_chunks) + " with " + std::to_string(own) + " experts per rank");
  if (c.max_tokens < c.experts.tokens)
    throw ArgumentError("max_tokens is " + std::to_string(c.max_tokens) +
                        ": want at least tokens = " + std::to_string(c.experts.tokens));
  if (c.max_rows < 0 || c.max_rows > c.most_rows())
    throw ArgumentError("max_rows is " + std::to_string(c.max_rows) +
                        ": want 0 to ranks * max_tokens * slots = " + std::to_string(c.most_rows()));
  check_config(c.own());
}

void check_call(const ExpertParallelConfig& c, const Group& group, const ExpertParallelWindows& windows) {
  check_config(c);
  if (group.size() != c.ranks)
    throw ArgumentError("the group has " + std::to_string(group.size()) + " ranks: want " +
                        std::to_string(c.ranks));
  want_bytes(*windows.kept, "kept", KeptRegions(c).bytes());
  want_bytes(*windows.transient, "transient", TransientRegions(c).bytes());
}

DispatchShape dispatch_shape(const ExpertParallelConfig& c) {
  return {c.experts.tokens, c.max_tokens, c.experts.slots, c.ranks, c.experts.experts / c.ranks, c.exchange};
}

bool fills_slots(const ExpertParallelConfig& c) {
  if (c.exchange == Exchange::all_gather) return true;
  // A rank that has none of a token's k distinct experts.
  double none = 1;
  const int all = c.experts.experts, own = all / c.ranks;
  for (int i = 0; i < c.experts.slots && i < all; ++i)
    none *= std::max(0, all - own - i) / static_cast<double>(all - i);
  return 1 - none >= kMostRows;
}

KeptRegions::KeptRegions(const ExpertParallelConfig& c) : WindowLayout(c.ranks) {
  counts = add(sizeof(int));
  ids = add(slot_numbers(c) * sizeof(int));
  weights = add(slot_numbers(c) * sizeof(float));
  x = add(slot_row_bytes(c));
}

TransientRegions::TransientRegions(const ExpertParallelConfig& c) : WindowLayout(c.ranks) {
  d_output = add(slot_row_bytes(c));
  rows = add(slot_row_bytes(c));
  d_weights = add(slot_numbers(c) * sizeof(float));
  rows_needed = add(sizeof(int));
}

Sent::Sent(Arena& arena, const ExpertParallelConfig& c)
    : place(arena.take<int>(static_cast<std::size_t>(c.experts.tokens * c.ranks))),
      counts(arena.take<int>(static_cast<std::size_t>(c.ranks))) {}

ExpertParallelSaved::ExpertParallelSaved(Arena& arena, const ExpertParallelConfig& c)
    : sent(arena, c), experts(arena.take_bytes(bytes_taken<Saved>(c.own(), token_chunks(c)))) {}

ExpertParallelForwardWorkspace::ExpertParallelForwardWorkspace(Arena& arena, const ExpertParallelConfig& c)
    : dispatch(arena.take_bytes(dispatch_workspace_bytes(dispatch_shape(c)))),
      experts(arena.take_bytes(bytes_taken<ForwardWorkspace>(c.own(), token_chunks(c)))),
      sent(arena, c) {}

ExpertParallelBackwardWorkspace::ExpertParallelBackwardWorkspace(Arena& arena, const ExpertParallelConfig& c)
    : experts(arena.take_bytes(bytes_taken<BackwardWorkspace>(c.own(), RowsOfX::apart))),
      d_weights(arena.take<float>(static_cast<std::size_t>(c.ranks) * slot_numbers(c))) {}

template <class Layout>
static std::size_t bytes(const ExpertParallelConfig& config) {
  check_config(config);
  return bytes_taken<Layout>(config);
}

std::size_t saved_bytes(const ExpertParallelConfig& c) { return bytes<ExpertParallelSaved>(c); }
std::size_t forward_workspace_bytes(const ExpertParallelConfig& c) {
  return bytes<ExpertParallelForwardWorkspace>(c);
}
std::size_t backward_workspace_bytes(const ExpertParallelConfig& c) {
  return bytes<ExpertParallelBackwardWorkspace>(c);
}

Window kept_window(const ExpertParallelConfig& c, Group& group) {
  check_config(c);
  return group.window(KeptRegions(c).bytes(), outbox_of_rows(c));
}
Window transient_window(const ExpertParallelConfig& c, Group& group) {
  check_config(c);
  return group.window(TransientRegions(c).bytes(), Outbox::staged);
}

}  // namespace moeref::cuda
