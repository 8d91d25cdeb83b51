// The correction bias and its update: against the reference, and its state and errors.
#include "moeref/cuda/bias_update.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

TEST(BiasUpdate, RandomCallsWithinTheBounds) {
  MOEREF_NEEDS_DEVICE();
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    Judged total;
    for (std::uint64_t seed = 0; seed < 80; ++seed)
      judge_call(random_call(Component::bias_update, dtype, seed, Numbers::adversarial, Rules::documented),
                 "seed " + std::to_string(seed), total);
    EXPECT_GT(total.calls, 40);
  }
}

TEST(BiasUpdate, RanksSumTheirLoads) {
  MOEREF_NEEDS_DEVICE();
  MoEConfig c = gate_only(32, 4, 24, DType::float32);
  c.score_func = ScoreFunc::sigmoid;
  c.gate_bias_update_factor = 0.01;
  for (const nlohmann::json& options :
       {nlohmann::json{{"dp_size", 3}, {"steps", 3}, {"micro_batches", 2}},
        nlohmann::json{{"dp_size", 2}, {"steps", 2}, {"tokens_per_rank", {0, 50}}}})
    expect_passes(filled_call(Component::bias_update, c, 50, 3, false, options), options.dump());
}

TEST(BiasUpdate, CentredSteps) {
  MOEREF_NEEDS_DEVICE();
  MoEConfig c = gate_only(24, 3, 24, DType::float32);
  c.score_func = ScoreFunc::sigmoid;
  c.gate_bias_update_factor = 0.01;
  c.centred_bias_update = true;
  for (const std::uint64_t seed : {4, 5, 6})
    expect_passes(filled_call(Component::bias_update, c, 31, seed, false, {{"steps", 4}}), "centred");
}

// Of every score function that has a correction, masks, ties of whole tokens, and a share of the old bias.
TEST(BiasUpdate, QuantilesOfScores) {
  MOEREF_NEEDS_DEVICE();
  Judged total;
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (const ScoreFunc score : {ScoreFunc::sigmoid, ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus})
      for (const auto& [experts, slots, tokens] :
           {std::array<std::int64_t, 3>{5, 2, 1}, {24, 3, 31}, {40, 8, 130}}) {
        MoEConfig c = gate_only(experts, slots, 24, dtype);
        c.score_func = score;
        c.gate_bias_update_factor = 0.01;
        c.bias_update_rule = BiasUpdateRule::quantile;
        c.bias_update_ema = total.calls % 2 == 0 ? 0.0 : 0.5;
        if (total.calls % 3 == 0) c.selection_scores = SelectionScores::logits;
        judge_call(filled_call(Component::bias_update, c, tokens, 30 + total.calls, false,
                               {{"steps", 2}, {"micro_batches", 2}}),
                   "quantiles", total);
      }
  EXPECT_EQ(total.calls, 27);
}

TEST(BiasUpdate, RanksAverageTheirQuantiles) {
  MOEREF_NEEDS_DEVICE();
  MoEConfig c = gate_only(32, 4, 24, DType::float32);
  c.score_func = ScoreFunc::sigmoid;
  c.gate_bias_update_factor = 0.01;
  c.bias_update_rule = BiasUpdateRule::quantile;
  for (const nlohmann::json& options :
       {nlohmann::json{{"dp_size", 3}, {"steps", 3}, {"micro_batches", 2}},
        nlohmann::json{{"dp_size", 2}, {"steps", 2}, {"tokens_per_rank", {0, 50}}}})
    expect_passes(filled_call(Component::bias_update, c, 50, 3, false, options), options.dump());
}

struct State {
  explicit State(const std::vector<float>& bias) : load(bias.size()), master(bias.size()), correction(bias) {}
  DeviceArray<std::int64_t> load;
  DeviceArray<float> master, correction;
  BiasUpdateState pointers() const { return {load.data(), master.data(), correction.data()}; }
};

TEST(BiasUpdate, MovesByTheSignAndNothingElse) {
  MOEREF_NEEDS_DEVICE();
  const std::vector<float> bias{0.1f, -0.2f, 0.3f, 1e-9f, 0.0f};
  State state(bias);
  cuda::BiasUpdate update({5, true, 0.001}, state.pointers(), nullptr);
  // Loads far past 2^31; the mean is 4e12.
  const DeviceArray<std::int64_t> first(std::vector<std::int64_t>{3000000000000, 0, 4000000000000, 1, 0}),
      second(std::vector<std::int64_t>{1000000000000, 8000000000000, 0, 3999999999999, 0});
  update.accumulate(first.data(), nullptr);
  update.accumulate(second.data(), nullptr);
  const std::vector<std::int64_t> sums{4000000000000, 8000000000000, 4000000000000, 4000000000000, 0};
  EXPECT_EQ(state.load.get(), sums);
  update.update(nullptr);
  const std::vector<float> want{0.1f, -0.2f - 0.001f, 0.3f, 1e-9f, 0.001f};
  EXPECT_EQ(state.correction.get(), want);
  EXPECT_EQ(state.master.get(), want);
  EXPECT_EQ(state.load.get(), std::vector<std::int64_t>(5, 0));
}

TEST(BiasUpdate, ErrorsSayWhatIsMissing) {
  MOEREF_NEEDS_DEVICE();
  State state({0.0f, 0.0f});
  const auto expect_error = [](const char* word, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error about " << word;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  expect_error("train_gate", [&] { cuda::BiasUpdate({2, false, 0.1}, state.pointers(), nullptr); });
  expect_error("factor", [&] { cuda::BiasUpdate({2, true, 0.0}, state.pointers(), nullptr); });
  expect_error("experts", [&] { cuda::BiasUpdate({1025, true, 0.1}, state.pointers(), nullptr); });
  cuda::BiasUpdate update({2, true, 0.1}, state.pointers(), nullptr);
  const DeviceArray<std::int64_t> load(std::vector<std::int64_t>{1, 3});
  expect_error("no forward", [&] { update.update(nullptr); });
  update.set_training(false);
  update.accumulate(load.data(), nullptr);
  expect_error("training", [&] { update.update(nullptr); });
  update.set_training(true);
  expect_error("no forward", [&] { update.update(nullptr); });
  update.accumulate(load.data(), nullptr);
  update.update(nullptr);
  expect_error("no forward", [&] { update.update(nullptr); });
  EXPECT_EQ(state.correction.get(), (std::vector<float>{0.1f, -0.1f}));
}

}  // namespace
}  // namespace moeref::cuda::test
