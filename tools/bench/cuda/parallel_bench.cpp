// Times expert parallelism on the devices of one machine, one thread a rank: dispatch and combine alone, by
// shape and by message size, and the layer forward and backward against the layer on one device with as many
// tokens and all experts.
//   moeref_cuda_parallel_bench [OPTION]... [shape]...      --help names the options
//   mpirun -n N moeref_cuda_parallel_bench --mpi [...]
//     one process a rank, on any number of machines
// Routing is that of a softmax gate with random weights, or FakeBalancedGate's with noise 0, 0.3 and 1.0.
// GB/s and shares count rows that leave a rank; the share is of a copy of as many bytes to the next rank, all
// ranks at once, in the same run. Times are medians of the slowest rank's, from a meeting of all ranks on.
// With --senders 1 one rank has tokens and a device of its own, so that two devices show how it stores to any
// number of ranks and what returns from them: one way at a time, without what others send. With --like N two
// ranks stand in for one of N, layer and exchange together.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "moeref/cuda/fake_balanced_gate.hpp"
#include "tools/bench/cuda/parallel_report.hpp"
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
constexpr int kMessageDim = 2048;

struct Options {
  std::string json;
  int repeat = 20, senders = 0;
  std::vector<int> ranks{2}, chunks{1}, like;
  bool mpi = false, packed = false, nccl = false;
  std::int64_t tokens = 0;
  std::vector<std::string> names;
  /// To see that all is well, never to compare: ranks may share a device.
  bool small() const { return names == std::vector<std::string>{"small"}; }
  /// MiB to each peer. The rows of seven that share a device fill it before they have 256.
  std::vector<double> messages() const {
    if (small()) return {1.0 / 16};
    return senders > 0 ? std::vector<double>{1, 4, 16, 64} : std::vector<double>{1, 4, 16, 64, 256};
  }
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

ShapeTimes measure(const Shape& s, const Routing& routing, int chunks, const Options& options,
                   ParallelClock& clock) {
  const int ranks = clock.world.size();
  const bool all_send = options.senders == 0, sends = all_send || clock.world.rank() < options.senders;
  const std::int64_t most = options.tokens ? options.tokens : s.tokens, tokens = sends ? most : 0;
  const auto count = static_cast<std::size_t>(tokens);
  LayerConfig c = layer_of(s, tokens, routing);
  const NormalBuffer x(count * static_cast<std::size_t>(s.dim), 1.0f,  // it seeds the fake routing
                       10u + static_cast<unsigned>(clock.world.rank()));
  ShapeTimes row{s.name, routing.name, most, chunks, 0, {}, {}, {}};
  if (all_send) row.alone = time_layer(c, x.data, clock, nullptr);
  c.expert_ranks = ranks, c.max_tokens = most, c.expert_chunks = chunks;
  // There is always room, and windows are packed, where ranks have a token less than they might have.
  if (options.packed) ++c.max_tokens, c.max_expert_token_rows = ranks * most;
  if (all_send) row.spread = time_layer(c, x.data, clock, &clock.group);
  {
    const DeviceBuffer<int> ids(count * static_cast<std::size_t>(s.slots));
    const DeviceBuffer<float> weights(count * static_cast<std::size_t>(s.slots));
    if (sends) route(c, x.data, ids.data, weights.data);
    ExpertParallelConfig exchanged = c.expert_parallel();
    exchanged.chunks = 1;
    row.exchange = time_exchange(exchanged, {x.data, ids.data, weights.data}, clock, 0);
  }
  row.copy_ms = time_copy(static_cast<std::size_t>(row.exchange.sent_mib * 1048576), sends, clock, 0);
  return row;
}

/// Those that mpirun or srun started.
std::shared_ptr<Bootstrap> processes() {
#ifdef MOEREF_CUDA_MPI
  return mpi_world();
#else
  throw ArgumentError("--mpi: this program was built without MPI (-DMOEREF_CUDA_MPI=ON)");
#endif
}

int device_count() {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  return devices;
}

void measure_stand_ins(const std::shared_ptr<Bootstrap>& world, const std::vector<Shape>& shapes,
                       const Options& options) {
  for (const int ranks : options.like) {
    if (world->rank() == 0) print_stand_in_head(ranks);
    for (Shape s : shapes) {
      if (s.experts % ranks != 0) continue;
      if (options.tokens > 0) s.tokens = static_cast<int>(options.tokens);
      for (const int chunks : options.chunks) {
        const auto group = Group::create(world);
        ParallelClock clock(*world, *group, options.repeat);
        const StandIn times = time_stand_in(s, ranks, chunks, clock);
        if (world->rank() == 0) print(s.name, chunks, times);
      }
    }
  }
}

RanksTimes measure_all(const std::shared_ptr<Bootstrap>& world, const std::vector<Shape>& shapes,
                       const Options& options) {
  const bool first = world->rank() == 0;
  const int senders = options.senders > 0 ? options.senders : world->size();
  RanksTimes out{world->size(), senders, {}, {}};
  const auto with_clock = [&](const auto& work) {
    GroupOptions group_options;
    if (options.nccl) group_options.transport = Transport::nccl;
    const auto group = Group::create(world, group_options);  // windows go with it
    ParallelClock clock(*world, *group, options.repeat);
    work(clock);
  };
  if (first) print_head(out.ranks, out.senders);
  for (const Shape& s : shapes) {
    if (s.experts % out.ranks != 0) continue;
    for (const Routing& routing : kRoutings)
      for (const int chunks : options.chunks)
        with_clock([&](ParallelClock& clock) {
          out.shapes.push_back(measure(s, routing, chunks, options, clock));
          if (first) print(out.shapes.back());
        });
  }
  if (first) print_message_head();
  for (const double mib : options.messages())
    with_clock([&](ParallelClock& clock) {
      out.messages.push_back(time_message(mib, kMessageDim, senders, clock));
      if (first) print(out.messages.back());
    });
  return out;
}

Options options_from(int argc, char** argv) {
  Options out;
  CLI::App app{"Times expert parallelism: dispatch, combine and the layer, by shape and by message size."};
  app.add_option("shape", out.names, "Presets that are measured, or `small` on few devices; default: all");
  app.add_option("--ranks", out.ranks, "Numbers of ranks, one after another, as in 2,4,8")
      ->delimiter(',')
      ->check(CLI::Range(2, kMaxRanks));
  app.add_option("--chunks", out.chunks, "Parts in which rows travel, one number after another")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--like", out.like, "Two ranks stand in for one of so many, experts alone; nothing else")
      ->delimiter(',')
      ->check(CLI::Range(2, kMaxRanks));
  app.add_option("--senders", out.senders,
                 "Only so many ranks have tokens, each a device of its own; exchanges alone")
      ->check(CLI::PositiveNumber);
  app.add_flag("--packed", out.packed, "Windows whose rows are packed");
  app.add_flag("--nccl", out.nccl, "All rows over NCCL");
  app.add_flag("--mpi", out.mpi, "The ranks that mpirun started");
  app.add_option("--repeat", out.repeat, "Times of which the median is given")->check(CLI::PositiveNumber);
  app.add_option("--tokens", out.tokens, "Of each rank; default: the preset's")->check(CLI::PositiveNumber);
  app.add_option("--json", out.json, "Write all figures there");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::exit(app.exit(e) == 0 ? 0 : 2);
  }
  return out;
}

/// A device each; or one each for the senders, while the others share what is left.
void check_devices(const Options& options) {
  if (options.small()) return;
  const int devices = device_count();
  if (options.senders >= devices)
    throw ArgumentError("--senders is " + std::to_string(options.senders) +
                        ": want a device more, here are " + std::to_string(devices));
  for (const int ranks : options.ranks)
    if (options.senders == 0 && devices < ranks)
      throw ArgumentError("--ranks is " + std::to_string(ranks) + ": want " + std::to_string(devices) +
                          " at most, a device each");
}

int run(int argc, char** argv) {
  const Options options = options_from(argc, argv);
  const std::vector<Shape> shapes =
      options.small() ? std::vector<Shape>{{"small", 512, 64, 32, 8, 2}} : shapes_named(options.names);
  std::vector<RanksTimes> all;
  if (!options.like.empty()) {
    check_devices(options);
    run_ranks(2, [&](const std::shared_ptr<Bootstrap>& world) { measure_stand_ins(world, shapes, options); });
    return 0;
  }
  if (options.mpi) {
    const auto world = processes();
    RanksTimes times = measure_all(world, shapes, options);
    if (world->rank() == 0) all.push_back(std::move(times));
  } else {
    check_devices(options);
    for (const int ranks : options.ranks)
      run_ranks(ranks, [&](const std::shared_ptr<Bootstrap>& world) {
        const int rank = world->rank(), shared = device_count() - options.senders;
        if (options.senders > 0 && rank >= options.senders && shared > 0)
          check(cudaSetDevice(options.senders + (rank - options.senders) % shared), "cudaSetDevice");
        RanksTimes times = measure_all(world, shapes, options);
        if (rank == 0) all.push_back(std::move(times));
      });
  }
  if (!options.json.empty() && !all.empty()) write_json(options.json, all);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_parallel_bench", moeref::cuda::bench::run, argc, argv);
}
