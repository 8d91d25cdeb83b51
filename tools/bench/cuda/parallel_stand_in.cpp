#include "tools/bench/cuda/parallel_stand_in.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "cuda_impl/expert_parallel/layout.hpp"

namespace moeref::cuda::bench {
namespace {

/// Different experts, where there are so many, of [first, first + count) for each token, `rows` of them in
/// all; the other slots have none.
std::vector<int> routing(std::int64_t tokens, int slots, int first, int count, std::int64_t rows,
                         unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<int> ids(static_cast<std::size_t>(tokens * slots));
  for (std::size_t t = 0; t < ids.size(); t += static_cast<std::size_t>(slots))
    for (int j = 0; j < slots; ++j) {
      int& id = ids[t + static_cast<std::size_t>(j)];
      const auto token = ids.begin() + static_cast<std::ptrdiff_t>(t);
      do id = first + static_cast<int>(rng() % static_cast<unsigned>(count));
      while (slots <= count && std::find(token, token + j, id) != token + j);
    }
  // Never of a token's first slot, for the row leaves in any case.
  for (std::int64_t left = tokens * slots - rows; left > 0;) {
    int& id = ids[rng() % ids.size()];
    if ((&id - ids.data()) % slots == 0 || id < 0) continue;
    id = -1, --left;
  }
  return ids;
}

LayerTimes time_experts(const ExpertParallelConfig& c, const std::vector<int>& ids, ParallelClock& clock) {
  const bool spread = c.ranks > 1;
  const ExpertsConfig& e = c.experts;
  const ExpertArrays a(spread ? c.own() : e, e.tokens);
  const NormalBuffer x(static_cast<std::size_t>(e.tokens) * static_cast<std::size_t>(e.dim), 1.0f, 1);
  const DeviceBuffer<int> device_ids(ids.size());
  const DeviceBuffer<float> weights(ids.size()), d_weights(ids.size());
  check(cudaMemcpy(device_ids.data, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  const DeviceBuffer<char> saved(spread ? saved_bytes(c) : saved_bytes(e)),
      work(spread ? std::max(forward_workspace_bytes(c), backward_workspace_bytes(c))
                  : std::max(forward_workspace_bytes(e), backward_workspace_bytes(e)));
  std::optional<Window> kept, transient;
  if (spread) kept = kept_window(c, clock.group), transient = transient_window(c, clock.group);
  const ExpertsWeights w = a.weights();
  const ExpertsInput in{x.data, device_ids.data, weights.data, nullptr};
  const ExpertsGradients d{a.dx.data, d_weights.data, a.d_gate_up.data, a.d_down.data, nullptr, nullptr};
  const auto forward = [&](void* keep) {
    if (spread)
      experts_forward(c, w, in, a.y.data, clock.group, {&*kept, &*transient}, keep, work.data, clock.stream);
    else
      experts_forward(e, w, in, a.y.data, keep, work.data, clock.stream);
  };
  const auto backward = [&] {
    if (spread)
      experts_backward(c, w, in, a.dy.data, clock.group, {&*kept, &*transient}, saved.data, d, work.data,
                       clock.stream);
    else
      experts_backward(e, w, in, a.dy.data, saved.data, d, work.data, clock.stream);
  };
  LayerTimes out{};
  out.forward_ms = clock.median_ms([&] { forward(nullptr); });
  out.both_ms = clock.median_ms([&] { forward(saved.data), backward(); });
  return out;
}

}  // namespace

StandIn time_stand_in(const Shape& s, int ranks, int chunks, ParallelClock& clock) {
  const int own = s.experts / ranks, rank = clock.world.rank();
  const std::int64_t rows = std::int64_t{s.tokens} * s.slots;
  const ExpertsConfig alone{s.tokens, s.dim, s.inter_dim, s.experts, s.slots};
  StandIn out{};
  out.tokens = std::llround(s.tokens * slot_fill({alone, ranks, s.tokens}) * (ranks - 1));
  out.slots = static_cast<int>((rows + out.tokens - 1) / out.tokens);
  ExpertParallelConfig c{{out.tokens, s.dim, s.inter_dim, 2 * own, out.slots}, 2, out.tokens};
  c.max_tokens = std::llround(static_cast<double>(out.tokens) / slot_fill(c));  // as full as a slot there
  c.max_rows = rows * 6 / 5, c.chunks = chunks;
  out.spread = time_experts(
      c, routing(out.tokens, out.slots, own * (1 - rank), own, rows, 5u + static_cast<unsigned>(rank)),
      clock);
  out.alone =
      time_experts({alone, 1, s.tokens},
                   routing(s.tokens, s.slots, 0, s.experts, rows, 5u + static_cast<unsigned>(rank)), clock);
  return out;
}

}  // namespace moeref::cuda::bench
