// The gate's input where it is not x, at sizes that random calls do not reach.
#include "cuda_impl/gate/gate_input.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"

namespace moeref::cuda::test {
namespace {

class GateInputs : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};

MoEConfig made_config(DType dtype, bool norm, bool jitter) {
  MoEConfig c = gate_only(16, 2, 136, dtype);
  c.score_func = ScoreFunc::sigmoid;
  c.router_input_norm = norm;
  c.router_jitter = jitter;
  return c;
}

// Several elements a lane, and several parts of the norm's factors' gradient.
TEST_P(GateInputs, WideTokens) {
  for (const auto& [norm, jitter] : {std::pair{true, false}, {false, true}, {true, true}})
    for (const char* precision : {"", "float32", "float64"}) {
      nlohmann::json options = nlohmann::json::object();
      if (*precision) options["gate_precision"] = precision;
      const Call call =
          filled_call(Component::gate, made_config(GetParam(), norm, jitter), 70, 31, true, options);
      expect_passes(call, std::string("norm ") + (norm ? "1" : "0") + " precision " + precision);
    }
}

TEST_P(GateInputs, TheSameBitsOnEveryRun) {
  expect_repeatable(filled_call(Component::gate, made_config(GetParam(), true, true), 70, 32));
}

INSTANTIATE_TEST_SUITE_P(Types, GateInputs, testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

// A documented call has no room for what it does not make.
TEST(GateInput, CostsNothingWhereItIsX) {
  GateConfig c{1024, 256, 8, 2};
  const std::size_t forward = gate_forward_workspace_bytes(c), backward = gate_backward_workspace_bytes(c);
  EXPECT_FALSE(makes_input(c));
  c.router_jitter = true;
  EXPECT_EQ(gate_forward_workspace_bytes(c), forward + 1024 * 256 * 2);
  EXPECT_EQ(gate_backward_workspace_bytes(c), backward + 2 * 1024 * 256 * 2);
}

}  // namespace
}  // namespace moeref::cuda::test
