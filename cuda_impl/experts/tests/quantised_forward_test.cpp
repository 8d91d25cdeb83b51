// Products of codes by codes, with the accumulator of Hopper's FP8 tensor cores, against the reference and
// the bound that this accumulator has.
#include "cuda_impl/adaptors/tests/judged_call.hpp"
#include "cuda_impl/experts/tests/experts_call.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

class QuantisedForward : public testing::TestWithParam<const char*> {
 protected:
  static json call(std::int64_t tokens, int dim, int inter_dim) {
    return with(experts_call(tokens, dim, inter_dim, "bfloat16"), {{"config",
                                                                    {{"weight_format", "fp8_e4m3_block128"},
                                                                     {"activation_format", GetParam()},
                                                                     {"accumulator", "e8m13_promoted128"}}}});
  }
  static constexpr ExpertsPath kPath = ExpertsPath::wgmma_e4m3;
  void SetUp() override { MOEREF_SKIP(wgmma_missing()); }
};
INSTANTIATE_TEST_SUITE_P(Rows, QuantisedForward,
                         testing::Values("fp8_e4m3_group128", "fp8_e4m3_group128_ue8m0"),
                         [](const auto& info) { return std::string(info.param); });

// Edges of tiles of 128 rows a block, strips of 128 and of 64 pairs, stages and scales of 128 columns; halves
// of gate and up whose blocks of scales begin anywhere.
TEST_P(QuantisedForward, EveryTileEdge) {
  struct Extents {
    int tokens, dim, inter_dim;
  };
  for (const auto& [tokens, dim, inter_dim] :
       {Extents{1, 16, 64}, {23, 128, 128}, {64, 272, 192}, {330, 144, 320}, {515, 640, 64}, {700, 128, 448}})
    for (const char* activation : {"swiglu", "quick_geglu", "relu2"})
      expect_agrees(with(call(tokens, dim, inter_dim), {{"config",
                                                         {{"expert_activation", activation},
                                                          {"activation_limit", 1.5},
                                                          {"expert_bias", tokens % 2 == 0}}}}),
                    {kPath});
}

TEST_P(QuantisedForward, GradientsAndWeightsAfterDown) {
  for (const char* activation : {"swiglu", "geglu", "swigluoai"})
    for (const bool after : {false, true})
      expect_agrees(with(call(37, 256, 192), {{"backward", true},
                                              {"config",
                                               {{"expert_activation", activation},
                                                {"expert_bias", after},
                                                {"apply_router_weight_after_down", after}}}}),
                    {kPath});
}

TEST_P(QuantisedForward, WeightsOnTheInput) {
  expect_agrees(
      with(call(37, 256, 192), {{"backward", true}, {"config", {{"router_weight_on_input", true}}}}),
      {kPath});
}

TEST_P(QuantisedForward, OnRanks) {
  for (const char* exchange : {"all_gather", "all_to_all"})
    expect_agrees(
        with(call(61, 256, 192), {{"backward", true}, {"call", {{"ep_size", 3}, {"exchange", exchange}}}}),
        {kPath});
}

TEST_P(QuantisedForward, SameBitsAgain) {
  expect_repeatable(build_call(parse_case_spec(call(333, 384, 320))));
}

}  // namespace
}  // namespace moeref::cuda::test
