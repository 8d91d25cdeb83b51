// The dense MLP against the reference: activations, biases, both types, edges of tokens and widths.
#include "cuda_impl/adaptors/tests/judged_call.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

class MLP : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
  static json base() {
    return {{"case", "mlp"},
            {"component", "mlp"},
            {"tokens", {19}},
            {"backward", true},
            {"config", {{"dim", 24}, {"inter_dim", 40}, {"dtype", GetParam()}}}};
  }
};
INSTANTIATE_TEST_SUITE_P(Types, MLP, testing::Values("float32", "bfloat16", "float16"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(MLP, ActivationsAndBiases) {
  for (const bool bias : {false, true})
    for (const json& c :
         {json{{"activation", "swiglu"}}, json{{"activation", "swiglu"}, {"swiglu_limit", 0.7}},
          json{{"activation", "relu2"}}, json{{"activation", "relu2"}, {"swiglu_limit", 0.7}},
          json{{"activation", "situ"}, {"situ_beta", 0.5}, {"situ_linear_beta", 0.75}},
          json{{"activation", "situ"}, {"situ_linear_beta", 0.0}, {"swiglu_limit", 0.7}}})
      expect_agrees(with(base(), {{"config", with(c, {{"bias", bias}})}}));
}

TEST_P(MLP, Tokens) {
  for (const json& tokens : {json{0}, json{1}, json{2}, json{127}, json{128}, json{129}, json{3, 5}})
    expect_agrees(with(base(), {{"tokens", tokens}, {"config", {{"bias", true}}}}));
}

TEST_P(MLP, Widths) {
  for (const auto& [dim, inter_dim] :
       std::vector<std::pair<int, int>>{{1, 1}, {3, 5}, {7, 33}, {63, 65}, {65, 63}, {129, 31}, {300, 257}})
    expect_agrees(with(base(), {{"config", {{"dim", dim}, {"inter_dim", inter_dim}, {"bias", true}}}}));
}

// Parameters in fp32 under bfloat16 activations are used as bfloat16.
TEST_P(MLP, ActivationsInBfloat16) { expect_agrees(with(base(), {{"x_dtype", "bfloat16"}})); }

}  // namespace
}  // namespace moeref::cuda::test
