// Times expert parallelism on the devices of one machine, one thread a rank: dispatch and combine alone, by
// shape and by message size, and the layer forward and backward against the layer on one device with as many
// tokens and all experts.
//   moeref_cuda_parallel_bench [OPTION]... [shape]...
//     --ranks N, --chunks N, --packed, --nccl, --repeat N, --tokens T, --json FILE
//   mpirun -n N moeref_cuda_parallel_bench --mpi [...]
//     one process a rank, on any number of machines
// Routing is that of a softmax gate with random weights, or FakeBalancedGate's with noise 0, 0.3 and 1.0.
// GB/s and shares count rows that leave a rank; the share is of a copy of as many bytes to the next rank, all
// ranks at once, in the same run. Times are medians of the slowest rank's, from a meeting of all ranks on.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "moeref/cuda/fake_balanced_gate.hpp"
#include "tools/bench/cuda/parallel_exchange.hpp"
#include "tools/bench/cuda/parallel_layer.hpp"
#include "tools/bench/cuda/program.hpp"

namespace moeref::cuda::bench {
namespace {

struct Routing {
  const char* name;
  bool fake;
  double noise;
};
constexpr Routing kRoutings[] = {
    {"gate", false, 0.0}, {"balanced", true, 0.0}, {"noise 0.3", true, 0.3}, {"noise 1.0", true, 1.0}};
constexpr std::initializer_list<double> kMessages = {1, 4, 16, 64, 256};  // MiB to each peer
constexpr int kMessageDim = 2048;

struct Options {
  const char* json = nullptr;
  int repeat = 20, ranks = 2, chunks = 1;
  bool mpi = false, packed = false;
  GroupOptions group;
  std::int64_t tokens = 0;
  std::vector<std::string> names;
};

struct Row {
  std::string shape;
  const char* routing;
  std::int64_t tokens;
  double copy_ms;
  ExchangeTimes exchange;
  LayerTimes spread, alone;
  double of_copy(double ms) const { return ms > 0 ? copy_ms / ms : 0; }
};

LayerConfig layer_of(const Shape& s, std::int64_t tokens, const Routing& routing) {
  LayerConfig c;
  c.gate = {tokens, s.dim, s.experts, s.slots};
  c.experts = {tokens, s.dim, s.inter_dim, s.experts, s.slots};
  c.fake_balanced_gate = routing.fake, c.fake_gate_noise = routing.noise;
  return c;
}

/// The ids and weights that the layer's gate gives.
void route(const LayerConfig& c, const void* x, int* ids, float* weights) {
  if (c.fake_balanced_gate) {
    FakeGateConfig fake{c.gate.tokens, c.gate.dim, c.gate.experts, c.gate.slots};
    fake.noise = c.fake_gate_noise;
    fake_balanced_gate(fake, x, {}, ids, nullptr, weights, nullptr);
  } else {
    const NormalBuffer gate = gate_weight(c);
    const DeviceBuffer<char> work(gate_forward_workspace_bytes(c.gate));
    GateOutput out{ids};
    out.weights_float = weights;
    gate_forward(c.gate, {gate.data}, {x}, out, nullptr, work.data, nullptr);
    check(cudaDeviceSynchronize(), "gate_forward");
  }
  check(cudaDeviceSynchronize(), "routing");
}

Row measure(const Shape& s, const Routing& routing, const Options& options, ParallelClock& clock) {
  const int ranks = clock.world.size();
  const std::int64_t tokens = options.tokens ? options.tokens : s.tokens;
  const auto count = static_cast<std::size_t>(tokens);
  LayerConfig c = layer_of(s, tokens, routing);
  const NormalBuffer x(count * static_cast<std::size_t>(s.dim), 1.0f,  // it seeds the fake routing
                       10u + static_cast<unsigned>(clock.world.rank()));
  Row row{s.name, routing.name, tokens, 0, {}, {}, {}};
  row.alone = time_layer(c, x.data, clock, nullptr);
  c.expert_ranks = ranks, c.max_tokens = tokens, c.expert_chunks = options.chunks;
  // There is always room, and windows are packed, where ranks have a token less than they might have.
  if (options.packed) ++c.max_tokens, c.max_expert_token_rows = ranks * tokens;
  row.spread = time_layer(c, x.data, clock, &clock.group);
  {
    const DeviceBuffer<int> ids(count * static_cast<std::size_t>(s.slots));
    const DeviceBuffer<float> weights(count * static_cast<std::size_t>(s.slots));
    route(c, x.data, ids.data, weights.data);
    ExpertParallelConfig exchanged = c.expert_parallel();
    exchanged.chunks = 1;
    row.exchange = time_exchange(exchanged, {x.data, ids.data, weights.data}, clock, 0);
  }
  row.copy_ms = time_copy(static_cast<std::size_t>(row.exchange.sent_mib * 1048576), clock, 0);
  return row;
}

void print_head() {
  std::printf(
      "| shape | routing | tokens a rank | MiB sent | copy ms | dispatch ms | of copy | combine ms | of copy "
      "| "
      "forward ms | of one device | f+b ms | of one device |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}
void print(const Row& r) {
  const ExchangeTimes& e = r.exchange;
  std::printf("| %s | %s | %lld | %.1f | %.3f | %.3f | %.2f | %.3f | %.2f | %.3f | %.2f | %.3f | %.2f |\n",
              r.shape.c_str(), r.routing, static_cast<long long>(r.tokens), e.sent_mib, r.copy_ms,
              e.dispatch_ms, r.of_copy(e.dispatch_ms), e.combine_ms, r.of_copy(e.combine_ms),
              r.spread.forward_ms, r.spread.forward_ms / r.alone.forward_ms, r.spread.both_ms,
              r.spread.both_ms / r.alone.both_ms);
  std::fflush(stdout);
}

void print_message_head() {
  std::printf(
      "\n| MiB a peer | dispatch ms | GB/s | combine ms | GB/s | copy ms | GB/s | NCCL all-to-all ms | GB/s "
      "|\n"
      "|---|---|---|---|---|---|---|---|---|\n");
}
void print(const MessageTimes& m) {
  const auto rate = [&](double ms) { return ms > 0 ? m.mib * 1.048576 / ms : 0; };
  const ExchangeTimes& e = m.exchange;
  std::printf("| %g | %.4f | %.0f | %.4f | %.0f | %.4f | %.0f | %.4f | %.0f |\n", m.mib, e.dispatch_ms,
              e.rate(e.dispatch_ms), e.combine_ms, e.rate(e.combine_ms), m.copy_ms, rate(m.copy_ms),
              m.nccl_ms, rate(m.nccl_ms));
  std::fflush(stdout);
}

void write_json(const char* path, int ranks, const std::vector<Row>& rows,
                const std::vector<MessageTimes>& messages) {
  FILE* f = std::fopen(path, "w");
  if (!f) throw ArgumentError(std::string("--json: cannot write ") + path);
  std::fprintf(f, "{\"ranks\": %d, \"expert_parallelism\": [", ranks);
  for (const Row& r : rows)
    std::fprintf(f,
                 "%s\n  {\"shape\": \"%s\", \"routing\": \"%s\", \"tokens\": %lld, \"sent_mib\": %.4f, "
                 "\"copy_ms\": %.5f, \"dispatch_ms\": %.5f, \"combine_ms\": %.5f, \"forward_ms\": %.5f, "
                 "\"both_ms\": %.5f, \"alone_forward_ms\": %.5f, \"alone_both_ms\": %.5f}",
                 &r == rows.data() ? "" : ",", r.shape.c_str(), r.routing, static_cast<long long>(r.tokens),
                 r.exchange.sent_mib, r.copy_ms, r.exchange.dispatch_ms, r.exchange.combine_ms,
                 r.spread.forward_ms, r.spread.both_ms, r.alone.forward_ms, r.alone.both_ms);
  std::fprintf(f, "\n], \"messages\": [");
  for (const MessageTimes& m : messages)
    std::fprintf(f,
                 "%s\n  {\"mib\": %g, \"dispatch_ms\": %.5f, \"combine_ms\": %.5f, \"copy_ms\": %.5f, "
                 "\"nccl_ms\": %.5f}",
                 &m == messages.data() ? "" : ",", m.mib, m.exchange.dispatch_ms, m.exchange.combine_ms,
                 m.copy_ms, m.nccl_ms);
  std::fprintf(f, "\n]}\n");
  std::fclose(f);
}

/// Those that mpirun or srun started.
std::shared_ptr<Bootstrap> processes() {
#ifdef MOEREF_CUDA_MPI
  return mpi_world();
#else
  throw ArgumentError("--mpi: this program was built without MPI (-DMOEREF_CUDA_MPI=ON)");
#endif
}

Options options_from(int argc, char** argv) {
  Options out;
  for (int i = 1; i < argc; ++i) {
    const auto option = [&](const char* name) { return !std::strcmp(argv[i], name) && i + 1 < argc; };
    if (option("--json"))
      out.json = argv[++i];
    else if (option("--repeat"))
      out.repeat = std::max(1, std::atoi(argv[++i]));
    else if (!std::strcmp(argv[i], "--mpi"))
      out.mpi = true;
    else if (!std::strcmp(argv[i], "--packed"))
      out.packed = true;
    else if (!std::strcmp(argv[i], "--nccl"))
      out.group.transport = Transport::nccl;
    else if (option("--ranks"))
      out.ranks = std::max(2, std::atoi(argv[++i]));
    else if (option("--chunks"))
      out.chunks = std::max(1, std::atoi(argv[++i]));
    else if (option("--tokens"))
      out.tokens = std::max(1, std::atoi(argv[++i]));
    else
      out.names.emplace_back(argv[i]);
  }
  return out;
}

int run(int argc, char** argv) {
  const Options options = options_from(argc, argv);
  // "small" is to see that all is well, never to compare: ranks may share a device.
  const bool small = options.names == std::vector<std::string>{"small"};
  const std::vector<Shape> shapes =
      small ? std::vector<Shape>{{"small", 512, 64, 32, 8, 2}} : shapes_named(options.names);
  const auto world_of_processes = options.mpi ? processes() : nullptr;
  if (!options.mpi && !small) {
    int devices = 0;
    check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (devices < options.ranks)
      throw ArgumentError("--ranks is " + std::to_string(options.ranks) + ": want " +
                          std::to_string(devices) + " at most, a device each");
  }
  std::vector<Row> rows;
  std::vector<MessageTimes> messages;
  const auto measure_all = [&](const std::shared_ptr<Bootstrap>& world) {
    const bool first = world->rank() == 0;
    const auto with_clock = [&](const auto& work) {
      const auto group = Group::create(world, options.group);  // windows go with it
      ParallelClock clock(*world, *group, options.repeat);
      work(clock);
    };
    if (first) print_head();
    for (const Shape& s : shapes)
      for (const Routing& routing : kRoutings)
        with_clock([&](ParallelClock& clock) {
          const Row row = measure(s, routing, options, clock);
          if (first) rows.push_back(row), print(row);
        });
    if (first) print_message_head();
    for (const double mib : small ? std::vector<double>{1.0 / 16} : std::vector<double>(kMessages))
      with_clock([&](ParallelClock& clock) {
        const MessageTimes m = time_message(mib, kMessageDim, clock);
        if (first) messages.push_back(m), print(m);
      });
    if (first && options.json) write_json(options.json, world->size(), rows, messages);
  };
  if (options.mpi)
    measure_all(world_of_processes);
  else
    run_ranks(options.ranks, measure_all);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_parallel_bench", moeref::cuda::bench::run, argc, argv);
}
