// Latent rows over their root mean square, at sizes that random calls do not reach; the gate's tokens are in
// gate_input_test.cpp.
#include "cuda_impl/norm/rms_norm.hpp"

#include "cuda_impl/adaptors/tests/judged.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/moe.hpp"

namespace moeref::cuda::test {
namespace {

class LatentRows : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};
INSTANTIATE_TEST_SUITE_P(Types, LatentRows, testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

/// Several elements of a latent row a lane, and several parts of the norm's factors' gradient.
MoEConfig latent_norm_config(DType dtype, moeref::LatentNorm place) {
  MoEConfig c = gate_only(8, 3, 40, dtype);
  c.score_func = ScoreFunc::sigmoid;
  c.moe_latent_size = 72;
  c.latent_norm = place;
  c.expert_bias = place == moeref::LatentNorm::after_fc1;
  c.expert_activation = c.shared_expert_activation = ActivationKind::situ;
  c.situ_beta = 1.5, c.situ_linear_beta = place == moeref::LatentNorm::after_fc1 ? 0.0 : 2.0;
  c.n_shared_experts = 2;
  return c;
}

TEST_P(LatentRows, WithinTheBounds) {
  for (const auto place : {moeref::LatentNorm::before_fc2, moeref::LatentNorm::after_fc1})
    for (const int ranks : {1, 2}) {
      nlohmann::json options = nlohmann::json::object();
      if (ranks > 1) options = {{"ep_size", ranks}, {"exchange", "all_to_all"}};
      expect_passes(filled_call(Component::moe, latent_norm_config(GetParam(), place), 70, 31, true, options),
                    std::string(name(place)));
    }
}

TEST_P(LatentRows, TheSameBitsOnEveryRun) {
  expect_repeatable(
      filled_call(Component::moe, latent_norm_config(GetParam(), moeref::LatentNorm::before_fc2), 70, 32));
}

// A layer without the norm has no room for it.
TEST(LayerWorkspace, OfTheLatentNorm) {
  LayerConfig c{};
  c.gate = {64, 32, 8, 2};
  c.experts = {64, 16, 24, 8, 2};
  c.latent = true;
  const std::size_t saved = layer_saved_bytes(c);
  c.latent_norm = LatentNorm::before_fc2;
  EXPECT_EQ(layer_saved_bytes(c), saved + 64 * 16 * 2);
  c.latent_norm_eps = 0.0;
  EXPECT_THROW(layer_saved_bytes(c), ArgumentError);
  c.latent_norm_eps = 1e-5;
  c.latent = false;
  c.experts.dim = 32;
  EXPECT_THROW(layer_saved_bytes(c), ArgumentError);
}

}  // namespace
}  // namespace moeref::cuda::test
