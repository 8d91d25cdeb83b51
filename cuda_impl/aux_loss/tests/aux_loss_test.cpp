// Expert load and auxiliary loss of given scores and ids, against the reference's bounds.
#include "moeref/cuda/aux_loss.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

class AuxLoss : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};

TEST_P(AuxLoss, RandomCallsWithinTheBounds) {
  Judged total;
  for (std::uint64_t seed = 0; seed < 150; ++seed)
    judge_call(random_call(Component::aux_loss, GetParam(), seed, Numbers::adversarial,
                           seed % 2 ? Rules::any : Rules::documented),
               "seed " + std::to_string(seed), total);
  EXPECT_GT(total.calls, 100);
}

TEST_P(AuxLoss, EverySize) {
  for (const auto& [tokens, experts, k] : {std::array<std::int64_t, 3>{0, 8, 2},
                                           {1, 1, 1},
                                           {129, 33, 4},
                                           {1000, 64, 8},
                                           {700, 128, 8},
                                           {300, 256, 64},
                                           {200, 512, 6},
                                           {90, 1024, 64},
                                           {40000, 16, 2}})
    expect_passes(filled_call(Component::aux_loss, gate_only(experts, k, 8, GetParam()), tokens, 5),
                  std::to_string(tokens) + " tokens");
}

TEST_P(AuxLoss, FactorOfExpertsAlone) {
  MoEConfig c = gate_only(24, 4, 8, GetParam());
  c.aux_loss_factor = AuxLossFactor::experts;
  expect_passes(filled_call(Component::aux_loss, c, 77, 8), "E and not E / k");
}

// Sequences of more tokens than a block, cut within one; first choices; loads of earlier micro-batches.
TEST_P(AuxLoss, OtherCounts) {
  const auto judged = [&](auto set, std::int64_t tokens, const char* what) {
    MoEConfig c = gate_only(24, 4, 8, GetParam());
    set(c);
    expect_passes(filled_call(Component::aux_loss, c, tokens, 13), what);
  };
  judged([](MoEConfig& c) { c.aux_loss_sequences = 3; }, 3 * 77, "sequences");
  judged([](MoEConfig& c) { c.aux_loss_counts = AuxLossCounts::first_choice; }, 150, "first choices");
  judged([](MoEConfig& c) { c.aux_loss_accumulated = true; }, 150, "accumulated");
  judged(
      [](MoEConfig& c) {
        c.aux_loss_counts = AuxLossCounts::first_choice, c.aux_loss_factor = AuxLossFactor::experts;
        c.aux_loss_accumulated = true;
      },
      150, "accumulated first choices");
}

TEST_P(AuxLoss, AllMasked) {
  Call call = filled_call(Component::aux_loss, gate_only(16, 4, 8, GetParam()), 30, 7);
  for (std::int64_t t = 0; t < 30; ++t) call.tensors["inputs/token_mask"].set(t, 0.0);
  expect_passes(call, "all masked");
}

TEST_P(AuxLoss, TheSameBitsOnEveryRun) {
  expect_repeatable(filled_call(Component::aux_loss, gate_only(128, 8, 8, GetParam()), 5000, 9));
}

INSTANTIATE_TEST_SUITE_P(Types, AuxLoss, testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

// Two ranks' statistics, summed, give the loss of the whole; powers of two make every step exact.
TEST(AuxLossRanks, SummedStatisticsGiveTheWhole) {
  MOEREF_NEEDS_DEVICE();
  const int tokens = 64, experts = 8, slots = 2;
  std::vector<float> scores(tokens * experts);
  std::vector<int> ids(tokens * slots);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i % 5) * 0.125f;
  for (int t = 0; t < tokens; ++t) ids[2 * t] = t % 3, ids[2 * t + 1] = 3 + t % 5;
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int> device_ids(ids);
  const auto statistics = [&](int first, int count, DeviceArray<std::int64_t>& n,
                              DeviceArray<std::int64_t>& load, DeviceArray<double>& sum, float* loss) {
    const AuxLossConfig c{count, experts, slots, DataType::float32};
    DeviceArray<char> work(aux_loss_workspace_bytes(c));
    aux_loss_forward(c, {device_scores.data() + first * experts, device_ids.data() + first * slots},
                     {n.data(), load.data(), sum.data()}, loss, nullptr, work.data(), nullptr);
    check(cudaDeviceSynchronize(), "aux_loss_forward");
  };
  DeviceArray<std::int64_t> n(1), load(experts), n1(1), load1(experts), n2(1), load2(experts);
  DeviceArray<double> sum(experts), sum1(experts), sum2(experts), gradient(experts);
  DeviceArray<float> whole(1), parts(1);
  statistics(0, 64, n, load, sum, whole.data());
  statistics(0, 24, n1, load1, sum1, nullptr);
  statistics(24, 40, n2, load2, sum2, nullptr);
  auto l = load1.get(), m = n1.get();
  auto s = sum1.get();
  m[0] += n2.get()[0];
  for (int e = 0; e < experts; ++e) l[e] += load2.get()[e], s[e] += sum2.get()[e];
  n1.set(m), load1.set(l), sum1.set(s);
  aux_loss_from_statistics(experts, {.slots = slots}, {n1.data(), load1.data(), sum1.data()}, parts.data(),
                           gradient.data(), nullptr);
  EXPECT_EQ(parts.get()[0], whole.get()[0]);
  EXPECT_EQ(load.get(), l);
  EXPECT_EQ(n.get()[0], 64);
  for (int e = 0; e < experts; ++e)
    EXPECT_EQ(gradient.get()[e], static_cast<double>(l[e]) * experts / (slots * 64.0) / 64.0);
}

}  // namespace
}  // namespace moeref::cuda::test
