#include "tools/bench/cuda/parallel_exchange.hpp"

#include <optional>

#include "cuda_impl/expert_parallel/exchange_pass.hpp"
#include "cuda_impl/parallel/nccl_link.hpp"

namespace moeref::cuda::bench {
namespace {

template <class F>
double time(ParallelClock& clock, int in_graph, const F& run) {
  return in_graph > 0 ? clock.median_ms_in_graph(in_graph, run) : clock.median_ms(run);
}

double most_mib_sent(const int* sent, const ExpertParallelConfig& c, Bootstrap& world) {
  const auto ranks = static_cast<std::size_t>(c.ranks);
  std::vector<int> counts(ranks), most(ranks);
  check(cudaMemcpy(counts.data(), sent, ranks * sizeof(int), cudaMemcpyDeviceToHost), "cudaMemcpy");
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
  const ExpertParallelWindows windows{&kept, &transient};
  const DeviceBuffer<char> sent_memory(bytes_taken<Sent>(c)), work_memory(bytes_taken<RouteWorkspace>(c));
  const auto sent = laid_out<Sent>(sent_memory.data, c);
  const auto work = laid_out<RouteWorkspace>(work_memory.data, c);
  const DispatchInput tokens{input.ids, input.weights, nullptr};
  ExchangeTimes out{};
  out.plan_ms = time(clock, in_graph, [&] {
    ExchangePass pass(c, group, windows, stream);
    pass.send_routes(tokens, sent, work);
    group.meet(stream);
  });
  out.dispatch_ms = time(clock, in_graph, [&] {
    ExchangePass pass(c, group, windows, stream);
    pass.send_routes(tokens, sent, work);
    pass.push_x(input.x);
    pass.for_chunks([](int) {});
  });
  out.sent_mib = most_mib_sent(sent.rows.sent, c, clock.world);

  // Rows where the permutation puts them; what is in them does not matter.
  const ExchangePass received(c, group, windows, stream);
  const ExpertsConfig narrow{own.tokens, 8, 8, own.experts, own.slots};
  const TokenChunks one = one_chunk(own);
  const NormalBuffer rows(static_cast<std::size_t>(rows_of(own)) * e.dim, 1.0f, 7);
  const DeviceBuffer<char> sorted(bytes_taken<Saved>(narrow, one)),
      sort_work(bytes_taken<ForwardWorkspace>(narrow, one)),
      y(static_cast<std::size_t>(e.tokens) * static_cast<std::size_t>(e.dim) * 2);
  const PermutationShape shape = permutation_shape(own, selected_path(own), one);
  const Permutation permutation = carve_permutation(shape, sorted.data);
  const ExpertsInput there = received.received();
  sort_by_expert(shape, there.ids, there.weights, nullptr, permutation, sort_work.data, stream);
  out.combine_ms = time(clock, in_graph, [&] {
    ExchangePass pass(c, group, windows, stream);
    pass.recall_routes(sent);
    pass.return_rows({rows.data, permutation.slot_row}, y.data);
  });
  check(cudaStreamSynchronize(stream), "an exchange");
  return out;
}

double time_copy(std::size_t bytes, bool sends, ParallelClock& clock, int in_graph) {
  Group& group = clock.group;
  const Window window = group.window(bytes * static_cast<std::size_t>(group.size()));
  const DeviceBuffer<char> from(bytes);
  WindowLayout layout(group.size());
  const RankPointers slots = window.slots(layout.add(bytes));
  const int peer = (group.rank() + 1) % group.size();
  if (!group.stores_to(peer)) return 0;
  return time(clock, in_graph, [&] {
    if (sends)
      check(cudaMemcpyAsync(slots.of[peer], from.data, bytes, cudaMemcpyDeviceToDevice, clock.stream),
            "cudaMemcpyAsync");
    group.meet(clock.stream);
  });
}

double time_nccl(std::size_t bytes, int senders, ParallelClock& clock, int in_graph) {
  std::unique_ptr<NcclLink> link;
  try {
    link = NcclLink::create(clock.world, "benchmark");
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
        if (rank < senders)
          link->send(from.data + bytes * static_cast<std::size_t>(p), bytes, p, clock.stream);
        if (p < senders) link->receive(to.data + bytes * static_cast<std::size_t>(p), bytes, p, clock.stream);
      }
    link->end();
  });
  check(cudaStreamSynchronize(clock.stream), "NCCL");
  return ms;
}

MessageTimes time_message(double mib, int dim, int senders, ParallelClock& clock) {
  constexpr int kTimes = 10;
  const int ranks = clock.world.size();
  const bool sends = clock.world.rank() < senders;
  const auto most = static_cast<std::int64_t>(mib * 1048576 / (2.0 * dim)), tokens = sends ? most : 0;
  ExpertsConfig e{tokens, dim, 8, 8 * ranks, std::max(8, ranks)};
  const ExpertParallelConfig c{e, ranks, most};
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
  // Not where the host waits for counts of rows, nor where ranks share a device, on which kernels of several
  // graphs would have to run together.
  const int in_graph = clock.group.needs_row_counts() || senders < ranks ? 0 : kTimes;
  const std::size_t bytes = static_cast<std::size_t>(most) * static_cast<std::size_t>(dim) * 2;
  MessageTimes out{mib, {}, 0, 0};
  out.exchange = time_exchange(c, {x.data, device_ids.data, weights.data}, clock, in_graph);
  out.copy_ms = time_copy(bytes, sends, clock, in_graph);
  out.nccl_ms = time_nccl(bytes, senders, clock, in_graph);
  return out;
}

}  // namespace moeref::cuda::bench
