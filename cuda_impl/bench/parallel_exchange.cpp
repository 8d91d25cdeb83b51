#include "bench/parallel_exchange.hpp"

#include <optional>

#include "expert_parallel/combine.hpp"
#include "expert_parallel/plan.hpp"
#include "experts/passes.hpp"
#include "parallel/nccl_link.hpp"

namespace moeref::cuda::bench {
namespace {

template <class F>
double time(ParallelClock& clock, int in_graph, const F& run) {
  return in_graph > 0 ? clock.median_ms_in_graph(in_graph, run) : clock.median_ms(run);
}

double most_mib_sent(const DeviceBuffer<int>& sent, const ExpertParallelConfig& c, Bootstrap& world) {
  const auto ranks = static_cast<std::size_t>(c.ranks);
  std::vector<int> counts(ranks), most(ranks);
  check(cudaMemcpy(counts.data(), sent.data, ranks * sizeof(int), cudaMemcpyDeviceToHost), "cudaMemcpy");
  counts[static_cast<std::size_t>(world.rank())] = 0;
  int away = 0;
  for (const int n : counts) away += n;
  world.all_gather(away, most.data());
  return *std::max_element(most.begin(), most.end()) * static_cast<double>(c.experts.dim) * 2 / 1048576;
}

}  // namespace

ExchangeTimes time_exchange(const ExpertParallelConfig& c, const ExchangeInput& input, ParallelClock& clock,
                            int in_graph) {
  const ExpertsConfig &e = c.experts, own = c.own();
  Group& group = clock.group;
  const cudaStream_t stream = clock.stream;
  const Window kept = kept_window(c, group), transient = transient_window(c, group);
  const KeptRegions in(c);
  const TransientRegions back(c);
  const DispatchShape shape = dispatch_shape(c);
  const auto ranks = static_cast<std::size_t>(c.ranks);
  DeviceBuffer<int> place(static_cast<std::size_t>(e.tokens) * ranks), sent(ranks);
  DeviceBuffer<char> work(dispatch_workspace_bytes(shape));
  const std::size_t row_bytes = static_cast<std::size_t>(e.dim) * 2;
  const RowRange all{0, c.max_tokens};
  const Delivery routes[] = {{in.counts}, {in.ids}, {in.weights}}, x[] = {{in.x, row_bytes, 0, c.max_tokens}},
                 rows_back[] = {{back.rows, row_bytes, 0, c.max_tokens}};
  std::optional<RowCounts> counts;
  ExchangeTimes out{};
  out.dispatch_ms = time(clock, in_graph, [&] {
    plan_dispatch(shape, {input.ids, input.weights, nullptr},
                  {place.data, sent.data, kept.slots(in.counts), kept.slots(in.ids), kept.slots(in.weights)},
                  work.data, stream);
    push_rows(shape, e.dtype, e.dim, input.x, place.data, kept.slots(in.x), all, stream);
    group.send(kept, routes, nullptr, stream);
    if (group.needs_row_counts()) {
      group.meet(stream);
      counts = group.row_counts(kept, in.counts, sent.data, stream);
    }
    group.deliver(kept, x, counts ? &*counts : nullptr, stream);
  });
  out.sent_mib = most_mib_sent(sent, c, clock.world);

  // Rows where the permutation puts them; what is in them does not matter.
  const TokenChunks one = one_chunk(own);
  NormalBuffer rows(static_cast<std::size_t>(rows_of(own)) * e.dim, 1.0f, 7);
  DeviceBuffer<char> saved(bytes_taken<Saved>(ExpertsConfig{own.tokens, 8, 8, own.experts, own.slots}, one)),
      sort_work(bytes_taken<ForwardWorkspace>(ExpertsConfig{own.tokens, 8, 8, own.experts, own.slots}, one));
  DeviceBuffer<char> y(static_cast<std::size_t>(e.tokens) * row_bytes);
  const PermutationShape sorted = permutation_shape(own, selected_path(own), one);
  const Permutation permutation = carve_permutation(sorted, saved.data);
  sort_by_expert(sorted, kept.received<int>(in.ids), kept.received<float>(in.weights), nullptr, permutation,
                 sort_work.data, stream);
  if (counts) std::swap(counts->to, counts->from);
  out.combine_ms = time(clock, in_graph, [&] {
    combine_to_ranks({kept.received<int>(in.counts), permutation.slot_row, rows.data, e.dtype, e.dim},
                     c.max_tokens, e.slots, {c.ranks, group.rank()}, all, transient.slots(back.rows), nullptr,
                     {}, stream);
    group.deliver(transient, rows_back, counts ? &*counts : nullptr, stream);
    sum_returned({place.data, transient.received<char>(back.rows), e.dtype, e.dim}, e.tokens, c.max_tokens,
                 c.ranks, y.data, stream);
  });
  check(cudaStreamSynchronize(stream), "an exchange");
  return out;
}

double time_copy(std::size_t bytes, ParallelClock& clock, int in_graph) {
  Group& group = clock.group;
  const Window window = group.window(bytes * static_cast<std::size_t>(group.size()));
  const DeviceBuffer<char> from(bytes);
  WindowLayout layout(group.size());
  const RankPointers slots = window.slots(layout.add(bytes));
  const int peer = (group.rank() + 1) % group.size();
  if (!group.stores_to(peer)) return 0;
  return time(clock, in_graph, [&] {
    check(cudaMemcpyAsync(slots.of[peer], from.data, bytes, cudaMemcpyDeviceToDevice, clock.stream),
          "cudaMemcpyAsync");
    group.meet(clock.stream);
  });
}

double time_nccl(std::size_t bytes, ParallelClock& clock, int in_graph) {
  std::unique_ptr<NcclLink> link;
  try {
    link = NcclLink::create(clock.world);
  } catch (const GroupError&) {
    return 0;
  }
  const int ranks = clock.world.size(), rank = clock.world.rank();
  const DeviceBuffer<char> from(bytes * static_cast<std::size_t>(ranks)),
      to(bytes * static_cast<std::size_t>(ranks));
  const double ms = time(clock, in_graph, [&] {
    link->begin();
    for (int p = 0; p < ranks; ++p)
      if (p != rank) {
        link->send(from.data + bytes * static_cast<std::size_t>(p), bytes, p, clock.stream);
        link->receive(to.data + bytes * static_cast<std::size_t>(p), bytes, p, clock.stream);
      }
    link->end();
  });
  check(cudaStreamSynchronize(clock.stream), "NCCL");
  return ms;
}

MessageTimes time_message(double mib, int dim, ParallelClock& clock) {
  constexpr int kTimes = 10;
  const int ranks = clock.world.size();
  const auto tokens = static_cast<std::int64_t>(mib * 1048576 / (2.0 * dim));
  ExpertsConfig e{tokens, dim, 8, 8 * ranks, std::max(8, ranks)};
  const ExpertParallelConfig c{e, ranks, tokens};
  std::vector<int> ids(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(e.slots));
  for (std::size_t i = 0; i < ids.size(); ++i) {  // slot j of a token: rank j % n
    const int j = static_cast<int>(i) % e.slots;
    ids[i] = j % ranks * 8 + (j / ranks + static_cast<int>(i) / e.slots) % 8;
  }
  DeviceBuffer<int> device_ids(ids.size());
  DeviceBuffer<float> weights(ids.size());
  const NormalBuffer x(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(dim), 1.0f, 1);
  check(cudaMemcpy(device_ids.data, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  check(cudaDeviceSynchronize(), "inputs");
  const int in_graph = clock.group.needs_row_counts() ? 0 : kTimes;  // which the host waits for
  const std::size_t bytes = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(dim) * 2;
  MessageTimes out{mib, {}, 0, 0};
  out.exchange = time_exchange(c, {x.data, device_ids.data, weights.data}, clock, in_graph);
  out.copy_ms = time_copy(bytes, clock, in_graph);
  out.nccl_ms = time_nccl(bytes, clock, in_graph);
  return out;
}

}  // namespace moeref::cuda::bench
