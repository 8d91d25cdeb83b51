// The routed experts against the reference and its bounds, on every path.
#include "cuda_impl/adaptors/tests/judged_call.hpp"
#include "cuda_impl/experts/tests/experts_call.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

struct Path {
  ExpertsPath path;
  const char* dtype;
  const char* name;
};
void PrintTo(const Path& p, std::ostream* out) { *out << p.name; }

class ExpertsJudged : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override { MOEREF_SKIP(is_wgmma(GetParam().path) ? wgmma_missing() : device_missing()); }
  static bool any_width() {
    return GetParam().path == ExpertsPath::portable || GetParam().path == ExpertsPath::automatic;
  }
  static json base() { return with(experts_call(37, 24, 16, GetParam().dtype), {{"backward", true}}); }
  static void expect(const json& changes) { expect_agrees(with(base(), changes), {GetParam().path}); }
};
INSTANTIATE_TEST_SUITE_P(EveryPath, ExpertsJudged,
                         testing::Values(Path{ExpertsPath::portable, "float32", "portable_float32"},
                                         Path{ExpertsPath::portable, "bfloat16", "portable_bfloat16"},
                                         Path{ExpertsPath::wgmma_planes, "float32", "planes"},
                                         Path{ExpertsPath::automatic, "float16", "automatic_float16"},
                                         Path{ExpertsPath::wgmma, "bfloat16", "wgmma"},
                                         Path{ExpertsPath::wgmma_clusters, "bfloat16", "clusters"},
                                         Path{ExpertsPath::wgmma_turns, "bfloat16", "turns"},
                                         Path{ExpertsPath::automatic, "bfloat16", "automatic_bfloat16"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(ExpertsJudged, ActivationsBiasesAndPlacesOfTheWeight) {
  for (const json& activation :
       {json{{"expert_activation", "swiglu"}}, json{{"expert_activation", "swiglu"}, {"swiglu_limit", 0.7}},
        json{{"expert_activation", "swigluoai"}, {"activation_limit", 1.5}},
        json{{"expert_activation", "swigluoai"}, {"activation_limit", 0.0}, {"activation_alpha", 1.0}},
        json{{"expert_activation", "quick_geglu"}, {"activation_limit", 1.5}},
        json{{"expert_activation", "geglu"}}, json{{"expert_activation", "relu2"}}})
    for (const bool bias : {false, true})
      for (const bool after : {false, true})
        expect({{"config",
                 with(activation, {{"expert_bias", bias}, {"apply_router_weight_after_down", after}})}});
}

TEST_P(ExpertsJudged, BeyondTheClamps) {
  for (const json& activation : {json{{"expert_activation", "swiglu"}, {"swiglu_limit", 1.0}},
                                 json{{"expert_activation", "quick_geglu"}, {"activation_limit", 1.5}}})
    expect({{"config", with(activation, {{"expert_bias", true}})},
            {"data", {{"x", {{"kind", "normal"}, {"scale", 6.0}}}}}});
}

TEST_P(ExpertsJudged, Tokens) {
  for (const int tokens : {0, 1, 2, 15, 16, 17, 63, 64, 65, 129})
    expect({{"tokens", {tokens}}, {"config", {{"expert_bias", true}}}});
}

TEST_P(ExpertsJudged, Routings) {
  for (const char* indices : {"skewed", "same", "two", "some_empty", "round_robin", "duplicates",
                              "absent_slots", "all_absent", "last_expert"})
    for (const char* mask : {"absent", "random", "all", "first", "last"})
      expect({{"config", {{"expert_bias", true}}}, {"data", {{"indices", indices}, {"mask", mask}}}});
}

TEST_P(ExpertsJudged, Widths) {
  std::vector<std::pair<int, int>> widths{{8, 8}, {16, 72}, {136, 64}, {264, 8}};
  if (any_width()) widths.insert(widths.end(), {{1, 1}, {3, 5}, {33, 31}, {65, 63}, {63, 65}, {130, 97}});
  for (const auto& [dim, inter_dim] : widths)
    for (const char* activation : {"swiglu", "quick_geglu", "relu2"})
      expect({{"config",
               {{"dim", dim},
                {"moe_inter_dim", inter_dim},
                {"expert_activation", activation},
                {"expert_bias", true}}}});
}

TEST_P(ExpertsJudged, WeightsInFloat32AndParametersInFloat32) {
  expect({{"config", {{"router_weights_fp32", true}}}});
  expect({{"config", {{"dtype", "float32"}}}, {"x_dtype", GetParam().dtype}});
}

}  // namespace
}  // namespace moeref::cuda::test
