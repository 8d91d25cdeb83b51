// Times expert parallelism on the devices of one machine, one thread a rank: dispatch and combine alone, and
// the experts forward and backward, against one device with as many tokens and all experts.
//   moeref_cuda_parallel_bench [--ranks N] [--nccl] [--repeat N] [--tokens T] [--json FILE] [shape]...
//   mpirun -n N moeref_cuda_parallel_bench --mpi [...]      one process a rank, on any number of machines
// Shares are of the rate at which a copy moves the same bytes between two devices, both ways at once, in the
// same run; bytes are those of rows that leave a rank. Routing is FakeBalancedGate's, with noise 0, 0.3
// and 1.0. Times are medians of the slowest rank's, from a meeting of all ranks on.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bench/device_timing.hpp"
#include "bench/program.hpp"
#include "expert_parallel/combine.hpp"
#include "expert_parallel/plan.hpp"
#include "experts/plan.hpp"
#include "moeref/cuda/fake_balanced_gate.hpp"

namespace moeref::cuda::bench {
namespace {

constexpr double kNoises[] = {0.0, 0.3, 1.0};

/// One rank's stream, and medians over all ranks of what is queued there.
class Clock {
 public:
  Clock(Bootstrap& world, Group& group, int repeat) : world_(world), group_(group), repeat_(repeat) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t& e : events_) check(cudaEventCreate(&e), "cudaEventCreate");
    window_ = group.window(256);
  }
  ~Clock() {
    cudaStreamSynchronize(stream);
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
    cudaStreamDestroy(stream);
  }

  /// Collective. `before` runs untimed in front of each run.
  template <class Before, class F>
  double median_ms(const Before& before, const F& run) {
    std::vector<double> times;
    world_.meet();  // nobody allocates or frees any more, which may wait for a peer's device
    for (int i = -3; i < repeat_; ++i) {
      before();
      group_.deliver(window_, {}, nullptr, stream);
      check(cudaEventRecord(events_[0], stream), "cudaEventRecord");
      run();
      check(cudaEventRecord(events_[1], stream), "cudaEventRecord");
      group_.synchronize(stream);
      float own = 0;
      check(cudaEventElapsedTime(&own, events_[0], events_[1]), "cudaEventElapsedTime");
      std::vector<float> all(static_cast<std::size_t>(world_.size()));
      world_.all_gather(own, all.data());
      if (i >= 0) times.push_back(*std::max_element(all.begin(), all.end()));
    }
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
  }
  template <class F>
  double median_ms(const F& run) {
    return median_ms([] {}, run);
  }

  cudaStream_t stream = nullptr;

 private:
  Bootstrap& world_;
  Group& group_;
  int repeat_;
  std::array<cudaEvent_t, 2> events_{};
  Window window_;
};

struct Row {
  std::string shape;
  int ranks;
  std::int64_t tokens;
  double noise;
  double sent_mib;                           // in rows to other ranks, of the rank that sends most
  double copy_gbs, dispatch_ms, combine_ms;  // a direction
  double alone_forward_ms, alone_both_ms, forward_ms, both_ms;
  double share_of_copy(double ms) const { return copy_gbs > 0 ? sent_mib * 1.048576 / ms / copy_gbs : 0; }
};

/// One rank of one shape and noise.
class Rank {
 public:
  Rank(const Shape& s, std::int64_t tokens, double noise, Bootstrap& world, Group& group, Clock& clock)
      : world_(world), group_(group), clock_(clock), tokens_(static_cast<std::size_t>(tokens)) {
    all_.tokens = tokens, all_.dim = s.dim, all_.inter_dim = s.inter_dim, all_.experts = s.experts;
    all_.slots = s.slots;
    config_ = {all_, world.size(), tokens, Exchange::all_to_all};
    row_.shape = s.name, row_.ranks = world.size(), row_.tokens = tokens, row_.noise = noise;
    FakeGateConfig fake{tokens, s.dim, s.experts, s.slots};
    fake.noise = noise;
    ids_.emplace(tokens_ * s.slots), weights_.emplace(tokens_ * s.slots);
    // x seeds the routing.
    x_.emplace(tokens_ * s.dim, 1.0f, 10u + static_cast<unsigned>(world.rank())),
        dy_.emplace(tokens_ * s.dim, 1.0f, 2);
    y_.emplace(tokens_ * s.dim), dx_.emplace(tokens_ * s.dim), d_weights_.emplace(tokens_ * s.slots);
    fake_balanced_gate(fake, x_->data, {}, ids_->data, nullptr, weights_->data, nullptr);
    check(cudaDeviceSynchronize(), "inputs");
  }

  Row measure() {
    measure_copy();
    measure_exchange();
    measure_experts();
    measure_alone();
    return row_;
  }

 private:
  struct Experts {
    NormalBuffer gate_up, down;
    DeviceBuffer<__nv_bfloat16> d_gate_up, d_down;
    explicit Experts(const ExpertsConfig& c)
        : gate_up(count(c, c.up_width()), 0.02f, 3),
          down(count(c, c.inter_dim), 0.02f, 4),
          d_gate_up(count(c, c.up_width())),
          d_down(count(c, c.inter_dim)) {}
    static std::size_t count(const ExpertsConfig& c, int width) {
      return static_cast<std::size_t>(c.experts) * c.dim * width;
    }
    ExpertsWeights weights() const { return {gate_up.data, down.data, nullptr, nullptr}; }
  };
  ExpertsInput input() const { return {x_->data, ids_->data, weights_->data, nullptr}; }
  ExpertsGradients gradients(const Experts& e) const {
    return {dx_->data, d_weights_->data, e.d_gate_up.data, e.d_down.data, nullptr, nullptr};
  }

  void measure_copy() {
    const std::size_t bytes = tokens_ * static_cast<std::size_t>(all_.dim) * 2;
    const Window to = group_.window(bytes * static_cast<std::size_t>(config_.ranks));
    WindowLayout layout(config_.ranks);
    const RankPointers slots = to.slots(layout.add(bytes));
    const int peer = world_.rank() ^ 1;
    if (peer >= config_.ranks) throw ArgumentError("--ranks: want an even number");
    if (!group_.stores_to(peer)) return;  // no copy reaches it
    const double ms = clock_.median_ms([&] {
      check(cudaMemcpyAsync(slots.of[peer], x_->data, bytes, cudaMemcpyDefault, clock_.stream),
            "cudaMemcpyAsync");
    });
    row_.copy_gbs = static_cast<double>(bytes) / ms * 1e-6;
  }

  void measure_exchange() {
    const Window kept = group_.window(kept_window_bytes(config_)),
                 transient = group_.window(transient_window_bytes(config_));
    const KeptRegions in(config_);
    const TransientRegions back(config_);
    const DispatchShape shape = dispatch_shape(config_);
    const auto ranks = static_cast<std::size_t>(config_.ranks);
    DeviceBuffer<int> place(tokens_ * ranks), sent(ranks);
    DeviceBuffer<char> work(dispatch_workspace_bytes(shape));
    const std::size_t row_bytes = static_cast<std::size_t>(all_.dim) * 2;
    const Delivery routes[] = {{in.counts}, {in.ids}, {in.weights}}, x[] = {{in.x, row_bytes}},
                   all[] = {{in.counts}, {in.ids}, {in.weights}, {in.x, row_bytes}};
    std::optional<RowCounts> rows_there;
    row_.dispatch_ms = clock_.median_ms([&] {
      plan_dispatch(
          shape, {ids_->data, weights_->data, nullptr},
          {place.data, sent.data, kept.slots(in.counts), kept.slots(in.ids), kept.slots(in.weights)},
          work.data, clock_.stream);
      push_rows(shape, all_.dtype, all_.dim, x_->data, place.data, kept.slots(in.x), clock_.stream);
      if (!group_.needs_row_counts()) return group_.deliver(kept, all, nullptr, clock_.stream);
      group_.deliver(kept, routes, nullptr, clock_.stream);
      rows_there = group_.row_counts(kept, in.counts, sent.data, clock_.stream);
      group_.deliver(kept, x, &*rows_there, clock_.stream);
    });
    std::vector<int> counts(ranks), most(ranks);
    check(cudaMemcpy(counts.data(), sent.data, ranks * sizeof(int), cudaMemcpyDeviceToHost), "cudaMemcpy");
    counts[static_cast<std::size_t>(world_.rank())] = 0;
    int away = 0;
    for (const int c : counts) away += c;
    world_.all_gather(away, most.data());
    row_.sent_mib = *std::max_element(most.begin(), most.end()) * static_cast<double>(all_.dim) * 2 / 1048576;

    // Rows as the experts leave them, in the order of the permutation.
    const ExpertsConfig own = config_.own();
    const Experts experts(own);
    DeviceBuffer<char> saved(saved_bytes(own)), scratch(forward_workspace_bytes(own));
    const ExpertRows rows = forward_rows(
        own, experts.weights(),
        {kept.received<char>(in.x), kept.received<int>(in.ids), kept.received<float>(in.weights), nullptr},
        saved.data, scratch.data, clock_.stream);
    const Delivery returned[] = {{back.rows, row_bytes}};
    if (rows_there) std::swap(rows_there->to, rows_there->from);
    row_.combine_ms = clock_.median_ms([&] {
      combine_to_ranks({kept.received<int>(in.counts), rows.slot_row, rows.rows, all_.dtype, all_.dim},
                       config_.max_tokens, all_.slots, config_.ranks, transient.slots(back.rows), nullptr, {},
                       clock_.stream);
      group_.deliver(transient, returned, rows_there ? &*rows_there : nullptr, clock_.stream);
      sum_returned({place.data, transient.received<char>(back.rows), all_.dtype, all_.dim}, all_.tokens,
                   config_.max_tokens, config_.ranks, y_->data, clock_.stream);
    });
  }

  void measure_experts() {
    const Window kept = group_.window(kept_window_bytes(config_)),
                 transient = group_.window(transient_window_bytes(config_));
    const Experts experts(config_.own());
    DeviceBuffer<char> saved(saved_bytes(config_)), work(forward_workspace_bytes(config_)),
        back(backward_workspace_bytes(config_));
    const auto forward = [&] {
      experts_forward(config_, experts.weights(), input(), y_->data, group_, {&kept, &transient}, saved.data,
                      work.data, clock_.stream);
    };
    row_.forward_ms = clock_.median_ms(forward);
    row_.both_ms = clock_.median_ms([&] {
      forward();
      experts_backward(config_, experts.weights(), input(), dy_->data, group_, {&kept, &transient},
                       saved.data, gradients(experts), back.data, clock_.stream);
    });
  }

  /// The same tokens through all experts on this device.
  void measure_alone() {
    const Experts experts(all_);
    DeviceBuffer<char> saved(saved_bytes(all_)), work(forward_workspace_bytes(all_)),
        back(backward_workspace_bytes(all_));
    const auto forward = [&] {
      experts_forward(all_, experts.weights(), input(), y_->data, saved.data, work.data, clock_.stream);
    };
    row_.alone_forward_ms = clock_.median_ms(forward);
    row_.alone_both_ms = clock_.median_ms([&] {
      forward();
      experts_backward(all_, experts.weights(), input(), dy_->data, saved.data, gradients(experts), back.data,
                       clock_.stream);
    });
  }

  Bootstrap& world_;
  Group& group_;
  Clock& clock_;
  std::size_t tokens_;
  ExpertsConfig all_{};
  ExpertParallelConfig config_{};
  Row row_{};
  std::optional<DeviceBuffer<int>> ids_;
  std::optional<DeviceBuffer<float>> weights_, d_weights_;
  std::optional<NormalBuffer> x_, dy_;
  std::optional<DeviceBuffer<__nv_bfloat16>> y_, dx_;
};

void print(const Row& r) {
  std::printf("| %s | %lld | %.1f | %.1f | %.0f | %.3f | %.2f | %.3f | %.2f | %.3f | %.2f | %.3f | %.2f |\n",
              r.shape.c_str(), static_cast<long long>(r.tokens), r.noise, r.sent_mib, r.copy_gbs,
              r.dispatch_ms, r.share_of_copy(r.dispatch_ms), r.combine_ms, r.share_of_copy(r.combine_ms),
              r.forward_ms, r.forward_ms / r.alone_forward_ms, r.both_ms, r.both_ms / r.alone_both_ms);
  std::fflush(stdout);
}

void write_json(const char* path, const std::vector<Row>& rows) {
  FILE* f = std::fopen(path, "w");
  if (!f) throw ArgumentError(std::string("--json: cannot write ") + path);
  std::fprintf(f, "{\"expert_parallelism\": [");
  for (const Row& r : rows)
    std::fprintf(
        f,
        "%s\n  {\"shape\": \"%s\", \"ranks\": %d, \"tokens\": %lld, \"noise\": %.1f, \"sent_mib\": %.4f, "
        "\"copy_gbs\": %.2f, \"dispatch_ms\": %.5f, \"combine_ms\": %.5f, \"forward_ms\": %.5f, "
        "\"both_ms\": %.5f, \"alone_forward_ms\": %.5f, \"alone_both_ms\": %.5f}",
        &r == rows.data() ? "" : ",", r.shape.c_str(), r.ranks, static_cast<long long>(r.tokens), r.noise,
        r.sent_mib, r.copy_gbs, r.dispatch_ms, r.combine_ms, r.forward_ms, r.both_ms, r.alone_forward_ms,
        r.alone_both_ms);
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

int run(int argc, char** argv) {
  const char* json = nullptr;
  int repeat = 20, ranks = 2;
  bool mpi = false;
  GroupOptions group_options;
  std::int64_t tokens = 0;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const auto option = [&](const char* name) { return !std::strcmp(argv[i], name) && i + 1 < argc; };
    if (option("--json"))
      json = argv[++i];
    else if (option("--repeat"))
      repeat = std::max(1, std::atoi(argv[++i]));
    else if (!std::strcmp(argv[i], "--mpi"))
      mpi = true;
    else if (!std::strcmp(argv[i], "--nccl"))
      group_options.transport = Transport::nccl;
    else if (option("--ranks"))
      ranks = std::max(2, std::atoi(argv[++i]));
    else if (option("--tokens"))
      tokens = std::max(1, std::atoi(argv[++i]));
    else
      names.emplace_back(argv[i]);
  }
  // "small" is to see that all is well, never to compare: ranks may share a device.
  const bool small = names == std::vector<std::string>{"small"};
  const std::vector<Shape> shapes =
      small ? std::vector<Shape>{{"small", 512, 64, 32, 8, 2}} : shapes_named(names);
  const auto world_of_processes = mpi ? processes() : nullptr;
  if (!mpi && !small) {
    int devices = 0;
    check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (devices < ranks)
      throw ArgumentError("--ranks is " + std::to_string(ranks) + ": want " + std::to_string(devices) +
                          " at most, a device each");
  }
  const bool first = !mpi || world_of_processes->rank() == 0;
  if (first)
    std::printf(
        "| shape | tokens a rank | noise | MiB sent | copy GB/s | dispatch ms | of copy | combine ms | of "
        "copy "
        "| forward ms "
        "| of one device | f+b ms | of one device "
        "|\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  std::vector<Row> rows;
  const auto measure = [&](const std::shared_ptr<Bootstrap>& world) {
    for (const Shape& s : shapes)
      for (const double noise : kNoises) {
        const auto group = Group::create(world, group_options);  // a shape's windows go with it
        Clock clock(*world, *group, repeat);
        const Row row = Rank(s, tokens ? tokens : s.tokens, noise, *world, *group, clock).measure();
        if (world->rank() == 0) rows.push_back(row), print(row);
      }
  };
  if (mpi)
    measure(world_of_processes);
  else
    run_ranks(ranks, measure);
  if (json && first) write_json(json, rows);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_parallel_bench", moeref::cuda::bench::run, argc, argv);
}
