#include "cuda_impl/expert_parallel/layout.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "cuda_impl/experts/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

std::size_t row_bytes(const ExpertParallelConfig& c) {
  return static_cast<std::size_t>(c.experts.dim) * bytes_of(c.experts.dtype);
}
std::size_t numbers_bytes(const ExpertParallelConfig& c) {  // of a row's ids, or weights
  return static_cast<std::size_t>(c.experts.slots) * 4;
}

constexpr double kRoom = 1.05;  // gates are not quite even

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
  if (c.max_token_rows < 0 || c.max_token_rows > c.ranks * c.max_tokens)
    throw ArgumentError("max_token_rows is " + std::to_string(c.max_token_rows) +
                        ": want 0 to ranks * max_tokens = " + std::to_string(c.ranks * c.max_tokens));
  if (c.max_token_rows > 0 && (c.exchange != Exchange::all_to_all || c.chunks > 1))
    throw ArgumentError("max_token_rows is " + std::to_string(c.max_token_rows) +
                        ": want 0 with all_gather and with several chunks");
  check_config(c.own());
  ExpertsConfig all = c.own();  // whose slots are counted, also where there is room for fewer
  all.tokens = c.ranks * c.max_tokens;
  check_config(all);
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

double slot_fill(const ExpertParallelConfig& c) {
  if (c.exchange == Exchange::all_gather) return 1;
  // A rank that has none of a token's k distinct experts.
  double none = 1;
  const int all = c.experts.experts, own = all / c.ranks;
  for (int i = 0; i < c.experts.slots && i < all; ++i)
    none *= std::max(0, all - own - i) / static_cast<double>(all - i);
  return 1 - none;
}
std::int64_t usual_rows(const ExpertParallelConfig& c) {
  const double rows = std::ceil(kRoom * slot_fill(c) * static_cast<double>(c.max_tokens));
  return std::min(static_cast<std::int64_t>(rows), c.max_tokens);
}

/// Rows for, or from, each rank.
static Region add_rows(WindowLayout& layout, const ExpertParallelConfig& c, std::size_t bytes) {
  return c.packed() ? layout.add_packed(static_cast<std::size_t>(c.window_rows()) * bytes)
                    : layout.add(static_cast<std::size_t>(c.max_tokens) * bytes);
}

KeptRegions::KeptRegions(const ExpertParallelConfig& c) : WindowLayout(c.ranks) {
  counts = add((c.packed() ? 2 * static_cast<std::size_t>(c.ranks) : 1) * sizeof(int));
  ids = add_rows(*this, c, numbers_bytes(c));
  weights = add_rows(*this, c, numbers_bytes(c));
  x = add_rows(*this, c, row_bytes(c));
}

TransientRegions::TransientRegions(const ExpertParallelConfig& c) : WindowLayout(c.ranks) {
  d_output = add_rows(*this, c, row_bytes(c));
  rows = add_rows(*this, c, row_bytes(c));
  d_weights = add_rows(*this, c, numbers_bytes(c));
  rows_needed = add(sizeof(int));
}

Sent::Sent(Arena& arena, const ExpertParallelConfig& c)
    : place(arena.take<int>(static_cast<std::size_t>(c.experts.tokens * c.ranks))) {
  const auto ranks = static_cast<std::size_t>(c.ranks);
  int* const numbers = arena.take<int>(RowPlaces::kNumbers * ranks);
  const auto part = [&](std::size_t i) { return numbers ? numbers + i * ranks : nullptr; };
  rows = {part(0), part(1), part(2), part(3), part(4), part(5), part(6)};
}

ExpertParallelSaved::ExpertParallelSaved(Arena& arena, const ExpertParallelConfig& c)
    : sent(arena, c), experts(arena.take_bytes(bytes_taken<Saved>(c.own(), token_chunks(c)))) {}

RouteWorkspace::RouteWorkspace(Arena& arena, const ExpertParallelConfig& c)
    : dispatch(arena.take_bytes(dispatch_workspace_bytes(dispatch_shape(c)))),
      rows_needed(arena.take<int>(static_cast<std::size_t>(c.ranks))),
      token_rows_needed(arena.take<int>(static_cast<std::size_t>(c.ranks))) {}

ExpertParallelForwardWorkspace::ExpertParallelForwardWorkspace(Arena& arena, const ExpertParallelConfig& c)
    : routes(arena, c),
      experts(arena.take_bytes(bytes_taken<ForwardWorkspace>(c.own(), token_chunks(c)))),
      sent(arena, c) {}

ExpertParallelBackwardWorkspace::ExpertParallelBackwardWorkspace(Arena& arena, const ExpertParallelConfig& c)
    : experts(arena.take_bytes(bytes_taken<BackwardWorkspace>(c.own(), RowsOfX::apart))),
      d_weights(arena.take<float>(static_cast<std::size_t>(slots_of(c.own())))) {}

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
  return group.window(KeptRegions(c).bytes(), c.chunks > 1 ? Outbox::staged : Outbox::direct);
}
Window transient_window(const ExpertParallelConfig& c, Group& group) {
  check_config(c);
  return group.window(TransientRegions(c).bytes(), Outbox::staged);
}

}  // namespace moeref::cuda
