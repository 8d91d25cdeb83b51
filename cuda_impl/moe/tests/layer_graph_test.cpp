// A whole training step of the layer (forward, backward, update of the correction bias) captured in a graph
// and replayed on other tokens, whose routing differs, gives the bits of steps that were launched one by one.
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "cuda_impl/tests/device.hpp"
#include "moeref/cuda/bias_update.hpp"
#include "moeref/cuda/moe.hpp"

namespace moeref::cuda::test {
namespace {

using bf16 = __nv_bfloat16;

std::vector<bf16> normals(std::size_t count, float scale, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<bf16> out(count);
  for (bf16& v : out) v = __float2bfloat16(normal(bits));
  return out;
}

struct Batch {
  std::vector<bf16> x, dy;
  std::vector<std::uint8_t> padding;
};

/// Latent projections, shared experts with their gate, groups-free sigmoid routing with a correction bias
/// that moves, padding, biases, experts of limited capacity: everything a step can launch.
class Step {
 public:
  static constexpr int kTokens = 333, kDim = 64, kLatent = 48, kInter = 40, kExperts = 12, kSlots = 3,
                       kShared = 72;
  static constexpr double kFactor = 0.05;

  /// With a group: experts, the auxiliary loss and the load are those of its ranks.
  explicit Step(ExpertsPath path, Group* group = nullptr) : group_(group), config_(config(path, group)) {
    const auto up = static_cast<std::size_t>(config_.experts.up_width());
    const int own_experts = kExperts / config_.expert_ranks;
    if (group) {
      const ExpertParallelConfig c = config_.expert_parallel();
      windows_ = {kept_window(c, *group), transient_window(c, *group)};
      groups_ = {group, {&windows_[0], &windows_[1]}, group};
    }
    weights_.gate = {param(kExperts * kDim, 0.3f), nullptr, correction_.data()};
    weights_.experts = {param(own_experts * kLatent * up, 0.15f),
                        param(own_experts * kInter * kLatent, 0.15f), param(own_experts * up, 0.3f),
                        param(own_experts * kLatent, 0.3f)};
    weights_.shared = {param(kShared * kDim, 0.12f), param(kShared * kDim, 0.12f),
                       param(kDim * kShared, 0.12f), param(kShared, 0.3f),
                       param(kShared, 0.3f),         param(kDim, 0.3f)};
    weights_.shared_gate = param(kDim, 0.12f);
    weights_.fc1_weight = param(kLatent * kDim, 0.12f), weights_.fc1_bias = param(kLatent, 0.3f);
    weights_.fc2_weight = param(kDim * kLatent, 0.12f), weights_.fc2_bias = param(kDim, 0.3f);
    const auto gradient = [&](std::size_t count) { return result("a gradient", count)->data(); };
    gradients_.x = gradient(kTokens * kDim);
    gradients_.gate_weight = gradient(kExperts * kDim);
    gradients_.experts.gate_and_up = gradient(own_experts * kLatent * up);
    gradients_.experts.down = gradient(own_experts * kInter * kLatent);
    gradients_.experts.gate_and_up_bias = gradient(own_experts * up);
    gradients_.experts.down_bias = gradient(own_experts * kLatent);
    gradients_.shared.gate = gradient(kShared * kDim), gradients_.shared.up = gradient(kShared * kDim);
    gradients_.shared.down = gradient(kDim * kShared);
    gradients_.shared.gate_bias = gradient(kShared), gradients_.shared.up_bias = gradient(kShared);
    gradients_.shared.down_bias = gradient(kDim);
    gradients_.shared_gate = gradient(kDim);
    gradients_.fc1_weight = gradient(kLatent * kDim), gradients_.fc1_bias = gradient(kLatent);
    gradients_.fc2_weight = gradient(kDim * kLatent), gradients_.fc2_bias = gradient(kDim);
    output_ = result("y", kTokens * kDim);
  }

  void set(const Batch& batch) {
    x_.set(batch.x), dy_.set(batch.dy), padding_.set(batch.padding);
    for (auto& [name, array] : results_) array.poison();
    load_.poison(), ids_.poison(), saved_.poison(), forward_work_.poison(), backward_work_.poison();
    check(cudaStreamSynchronize(nullptr), "set");  // the device may run a rank that waits for this one
  }

  void run(cudaStream_t stream) {
    const LayerInput in{x_.data(), padding_.data()};
    LayerOutput out{output_->data(), ids_.data()};
    out.load = load_.data();
    layer_forward(config_, weights_, in, out, saved_.data(), forward_work_.data(), blas_, stream, groups_);
    layer_backward(config_, weights_, in, dy_.data(), saved_.data(), gradients_, backward_work_.data(), blas_,
                   stream, groups_);
    if (group_) group_->sum(load_.data(), kExperts, nullptr, 0, stream);
    update_correction_bias(kExperts, kFactor, load_.data(), 1, master_.data(), correction_.data(), stream);
  }

  /// The same values of the forward pass, from a pass that keeps nothing.
  void run_forward_alone(cudaStream_t stream) {
    LayerOutput out{output_->data(), ids_.data()};
    out.load = load_.data();
    layer_forward(config_, weights_, {x_.data(), padding_.data()}, out, nullptr, forward_work_.data(), blas_,
                  stream, groups_);
  }
  std::vector<bf16> output() const { return output_->get(); }
  std::vector<std::int64_t> load() const { return load_.get(); }

  std::vector<int> ids() const { return ids_.get(); }
  std::vector<float> correction() const { return correction_.get(); }

  void expect_same_bits(const Step& other) const {
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const auto a = results_[i].second.get(), b = other.results_[i].second.get();
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)), 0) << results_[i].first << " " << i;
    }
    EXPECT_EQ(ids(), other.ids());
    EXPECT_EQ(load_.get(), other.load_.get());
    EXPECT_EQ(correction(), other.correction());
  }
  /// NaN anywhere means that something was not written.
  void expect_finite() const {
    for (const auto& [name, array] : results_)
      for (const bf16 v : array.get()) ASSERT_TRUE(std::isfinite(__bfloat162float(v))) << name;
  }

 private:
  static LayerConfig config(ExpertsPath path, const Group* group) {
    LayerConfig c{};
    if (group) c.expert_ranks = group->size(), c.max_tokens = kTokens, c.expert_chunks = 2;
    c.gate = {kTokens, kDim, kExperts, kSlots, ScoreFunction::sigmoid};
    c.gate.norm_topk_prob = true;
    c.gate.aux_loss_coeff = 0.01;
    c.gate.capacity = {0, 1.25, 0, CapacityOrder::weight};
    c.gate.norm_after_dropping = true;
    c.experts = {kTokens, kLatent, kInter, kExperts, kSlots};
    c.experts.path = path;
    c.latent = true;
    c.shared_inter_dim = kShared;
    c.shared_gate = true;
    return c;
  }
  void* param(std::size_t count, float scale) {
    params_.emplace_back(normals(count, scale, 100 + params_.size()));
    return params_.back().data();
  }
  DeviceArray<bf16>* result(const char* name, std::size_t count) {
    results_.emplace_back(std::piecewise_construct, std::forward_as_tuple(name),
                          std::forward_as_tuple(count));
    return &results_.back().second;
  }

  Group* group_;
  LayerConfig config_;
  std::array<Window, 2> windows_;
  LayerGroups groups_;
  Blas blas_;
  std::deque<DeviceArray<bf16>> params_;
  std::deque<std::pair<const char*, DeviceArray<bf16>>> results_;
  DeviceArray<float> correction_{std::vector<float>(kExperts, 0.0f)},
      master_{std::vector<float>(kExperts, 0.0f)};
  DeviceArray<bf16> x_{kTokens * kDim}, dy_{kTokens * kDim};
  DeviceArray<std::uint8_t> padding_{kTokens};
  DeviceArray<std::int64_t> load_{kExperts};
  DeviceArray<int> ids_{kTokens * kSlots};
  DeviceArray<char> saved_{layer_saved_bytes(config_)}, forward_work_{layer_forward_workspace_bytes(config_)},
      backward_work_{layer_backward_workspace_bytes(config_)};
  LayerWeights weights_;
  LayerGradients gradients_{};
  DeviceArray<bf16>* output_ = nullptr;
};

Batch batch(std::uint64_t seed) {
  Batch b{normals(Step::kTokens * Step::kDim, 1.0f, seed),
          normals(Step::kTokens * Step::kDim, 1.0f, seed + 1), std::vector<std::uint8_t>(Step::kTokens)};
  for (int t = 0; t < Step::kTokens; ++t) b.padding[t] = (t * 7 + seed) % 5 == 0;
  return b;
}

class LayerGraph : public testing::TestWithParam<ExpertsPath> {};
INSTANTIATE_TEST_SUITE_P(Paths, LayerGraph, testing::Values(ExpertsPath::automatic, ExpertsPath::portable),
                         [](const auto& info) {
                           return info.param == ExpertsPath::automatic ? "automatic" : "portable";
                         });

/// On every rank of the group, or alone; `first_seed` makes ranks differ.
void replay_with_other_routings(ExpertsPath path, Group* group, std::uint64_t first_seed) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  Step direct(path, group), captured(path, group);
  const Batch batches[] = {batch(first_seed), batch(first_seed + 11), batch(first_seed + 22)};
  std::vector<std::vector<int>> routings;

  // Kernels are loaded by their first launch, which a capture may not do.
  direct.set(batches[0]);
  direct.run(stream);
  check(cudaStreamSynchronize(stream), "a step launched directly");
  if (group) group->throw_if_broken();
  direct.expect_finite();

  captured.set(batches[0]);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  captured.run(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    if (i > 0) {
      direct.set(batches[i]);
      direct.run(stream);
      check(cudaStreamSynchronize(stream), "a step launched directly");
    }
    captured.set(batches[i]);
    check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    check(cudaStreamSynchronize(stream), "a replayed step");
    if (group) group->throw_if_broken();
    captured.expect_finite();
    captured.expect_same_bits(direct);
    routings.push_back(captured.ids());
  }
  EXPECT_NE(routings[0], routings[1]);
  EXPECT_NE(routings[1], routings[2]);
  // Three updates, each a step of kFactor up or down or none.
  int moved = 0;
  for (const float c : captured.correction()) {
    EXPECT_LE(std::abs(c), 3.01f * float(Step::kFactor));
    moved += c != 0;
  }
  EXPECT_GT(moved, Step::kExperts / 2);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

TEST_P(LayerGraph, ReplaysATrainingStepWithOtherRoutings) {
  MOEREF_NEEDS_DEVICE();
  replay_with_other_routings(GetParam(), nullptr, 11);
}

void forward_alone(ExpertsPath path, Group* group, std::uint64_t seed) {
  const Stream stream;
  Step training(path, group), alone(path, group);
  training.set(batch(seed)), alone.set(batch(seed));
  training.run(stream.get()), alone.run_forward_alone(stream.get());
  check(cudaStreamSynchronize(stream.get()), "both steps");
  const auto a = training.output(), b = alone.output();
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)), 0);
  EXPECT_EQ(training.ids(), alone.ids());
  if (!group) {  // a training step sums those of the ranks
    EXPECT_EQ(training.load(), alone.load());
  }
}

TEST_P(LayerGraph, ForwardWithoutSavedGivesTheSameBits) {
  MOEREF_NEEDS_DEVICE();
  forward_alone(GetParam(), nullptr, 11);
}

TEST_P(LayerGraph, ForwardWithoutSavedOfThreeRanks) {
  MOEREF_NEEDS_DEVICE();
  run_ranks(3, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world);
    forward_alone(GetParam(), group.get(), 100 * static_cast<std::uint64_t>(world->rank() + 1));
    group->throw_if_broken();
  });
}

// Each rank its own step and graph; they meet in the experts, the loss and the load. Two ranks: on a machine
// with two devices each has one; three share them.
void replay_steps_of(int ranks, ExpertsPath path) {
  const std::string apart = run_ranks_together(ranks, [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world);
    replay_with_other_routings(path, group.get(), 100 * static_cast<std::uint64_t>(world->rank() + 1));
    group->throw_if_broken();
  });
  MOEREF_SKIP(apart);
}

TEST_P(LayerGraph, ReplaysATrainingStepOfTwoRanks) {
  MOEREF_NEEDS_DEVICE();
  replay_steps_of(2, GetParam());
}
TEST_P(LayerGraph, ReplaysATrainingStepOfThreeRanks) {
  MOEREF_NEEDS_DEVICE();
  replay_steps_of(3, GetParam());
}

}  // namespace
}  // namespace moeref::cuda::test
