// signature.hpp: which tensors each component's call has, and the errors of calls that have others.
#include "moeref/signature.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "moeref/error.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

using nlohmann::json;

json small_layer(const json& changes = json::object()) {
  json config = {{"n_routed_experts", 8},
                 {"n_shared_experts", 0},
                 {"n_activated_experts", 2},
                 {"n_expert_groups", 1},
                 {"n_limited_groups", 1},
                 {"train_gate", true},
                 {"gate_bias_update_factor", 0.0},
                 {"aux_loss_coeff", 0.0},
                 {"score_func", "softmax"},
                 {"route_scale", 1.0},
                 {"dim", 16},
                 {"inter_dim", 32},
                 {"moe_inter_dim", 12},
                 {"norm_topk_prob", false},
                 {"dtype", "float32"}};
  config.merge_patch(changes);
  return config;
}

/// "name dtype shape", with a question mark where the tensor may be left out.
std::vector<std::string> lines(const std::vector<TensorSpec>& specs) {
  std::vector<std::string> out;
  for (const TensorSpec& spec : specs)
    out.push_back(spec.name + (spec.required ? " " : "? ") + std::string(name(spec.dtype)) + " " +
                  to_string(spec.shape));
  return out;
}
using Lines = std::vector<std::string>;

bool has(const std::vector<TensorSpec>& specs, std::string_view name) {
  return std::ranges::any_of(specs, [&](const TensorSpec& spec) { return spec.name == name; });
}

TEST(SignatureTest, Gate) {
  const Signature s = signature(Component::gate,
                                small_layer({{"router_bias", true},
                                             {"router_weights_fp32", true},
                                             {"dtype", "bfloat16"},
                                             {"aux_loss_coeff", 0.1},
                                             {"force_e_score_correction_bias", true}}),
                                json::object(), {5}, true);
  EXPECT_EQ(lines(s.inputs), (Lines{"inputs/x bfloat16 [5, 16]", "inputs/token_mask? bool [5]",
                                    "inputs/replay_indices? int64 [5, 2]", "params/weight bfloat16 [8, 16]",
                                    "params/bias bfloat16 [8]", "params/e_score_correction_bias float32 [8]",
                                    "cotangents/weights float32 [5, 2]"}));
  EXPECT_EQ(lines(s.outputs), (Lines{"grads/weight bfloat16 [8, 16]", "grads/bias bfloat16 [8]",
                                     "outputs/weights float32 [5, 2]", "outputs/indices int64 [5, 2]",
                                     "outputs/expert_load int64 [8]", "outputs/aux_loss float32 []",
                                     "grads/x bfloat16 [5, 16]"}));
}

TEST(SignatureTest, AGateOfAnotherTypeHasGradientsOfThatType) {
  const json config = small_layer({{"router_bias", true},
                                   {"dtype", "bfloat16"},
                                   {"gate_dtype", "float32"},
                                   {"force_e_score_correction_bias", true}});
  const auto gate_lines = [&](Component component, std::string_view prefix) {
    const Signature s = signature(component, config, json::object(), {1, 5}, true);
    Lines out;
    for (const auto* specs : {&s.inputs, &s.outputs})
      for (const TensorSpec& spec : *specs)
        if (spec.name.starts_with("params/" + std::string(prefix)) ||
            spec.name.starts_with("grads/" + std::string(prefix)))
          out.push_back(spec.name + " " + std::string(name(spec.dtype)));
    return out;
  };
  EXPECT_EQ(gate_lines(Component::gate, ""),
            (Lines{"params/weight float32", "params/bias float32", "params/e_score_correction_bias float32",
                   "grads/weight float32", "grads/bias float32", "grads/x bfloat16"}));
  EXPECT_EQ(gate_lines(Component::moe, "gate."),
            (Lines{"params/gate.weight float32", "params/gate.bias float32",
                   "params/gate.e_score_correction_bias float32", "grads/gate.weight float32",
                   "grads/gate.bias float32"}));
}

TEST(SignatureTest, AFrozenGateHasNoParameterGradients) {
  const Signature s =
      signature(Component::gate, small_layer({{"train_gate", false}}), json::object(), {5}, true);
  EXPECT_FALSE(has(s.outputs, "grads/weight"));
  EXPECT_TRUE(has(s.outputs, "grads/x"));
}

TEST(SignatureTest, TheAuxiliaryLossIsOfTrainingOnly) {
  const json config = small_layer({{"aux_loss_coeff", 0.1}});
  EXPECT_TRUE(
      has(signature(Component::gate, config, json::object(), {5}, false).outputs, "outputs/aux_loss"));
  EXPECT_FALSE(
      has(signature(Component::gate, config, {{"training", false}}, {5}, false).outputs, "outputs/aux_loss"));
}

TEST(SignatureTest, EachAuxiliaryLossIsAResultAndTheGlobalOneWantsEarlierLoads) {
  const auto losses = [](json fields, Component component, const json& options = json::object()) {
    const Signature s = signature(component, small_layer(std::move(fields)), options, {5}, false);
    Lines out;
    for (const std::string& line : lines(s.inputs))
      if (line.find("accumulated") != std::string::npos) out.push_back(line);
    for (const std::string& line : lines(s.outputs))
      if (line.find("_loss") != std::string::npos) out.push_back(line);
    return out;
  };
  const std::string loads = "inputs/accumulated_expert_load int64 [8]";
  for (const Component component : {Component::gate, Component::moe}) {
    EXPECT_EQ(losses({{"batch_loss_coeff", 0.1}}, component), (Lines{"outputs/batch_loss float32 []"}));
    EXPECT_EQ(losses({{"global_loss_coeff", 0.1}}, component),
              (Lines{loads, "outputs/global_loss float32 []"}));
    EXPECT_EQ(
        losses({{"aux_loss_coeff", 0.1}, {"batch_loss_coeff", 0.1}, {"global_loss_coeff", 0.1}}, component),
        (Lines{loads, "outputs/aux_loss float32 []", "outputs/batch_loss float32 []",
               "outputs/global_loss float32 []"}));
    EXPECT_EQ(losses({{"global_loss_coeff", 0.1}}, component, {{"training", false}}), Lines{});
  }
  EXPECT_EQ(losses({{"global_loss_coeff", 0.1}}, Component::moe, {{"fake_balanced_gate", true}}), Lines{});
  EXPECT_EQ(losses({{"global_loss_coeff", 0.1}}, Component::aux_loss),
            (Lines{"outputs/aux_loss float32 []"}));
}

TEST(SignatureTest, AuxLoss) {
  const Signature s = signature(Component::aux_loss, small_layer(), json::object(), {5}, true);
  EXPECT_EQ(lines(s.inputs), (Lines{"inputs/original_scores float32 [5, 8]", "inputs/token_mask? bool [5]",
                                    "inputs/indices int64 [5, 2]"}));
  EXPECT_EQ(lines(s.outputs), (Lines{"outputs/expert_load int64 [8]", "outputs/aux_loss float32 []",
                                     "grads/original_scores float32 [5, 8]"}));
}

TEST(SignatureTest, BiasUpdateHasTensorsForEveryStepAndMicroBatch) {
  const Signature s = signature(Component::bias_update, small_layer({{"gate_bias_update_factor", 0.1}}),
                                {{"steps", 2}, {"micro_batches", 2}}, {5}, false);
  for (const char* at : {"_0_0", "_0_1", "_1_0", "_1_1"}) {
    EXPECT_TRUE(has(s.inputs, "inputs/x" + std::string(at)));
    EXPECT_TRUE(has(s.outputs, "outputs/indices" + std::string(at)));
  }
  EXPECT_TRUE(has(s.outputs, "outputs/e_score_correction_bias_1"));
  EXPECT_TRUE(has(s.outputs, "outputs/cumulative_expert_load_1"));
  EXPECT_FALSE(has(s.inputs, "inputs/x_2_0"));
}

TEST(SignatureTest, FakeBalancedGateHasNoBackwardPass) {
  const Signature s = signature(Component::fake_balanced_gate, small_layer(), json::object(), {5}, true);
  EXPECT_EQ(lines(s.inputs), (Lines{"inputs/x float32 [5, 16]", "inputs/token_mask? bool [5]"}));
  EXPECT_EQ(lines(s.outputs), (Lines{"outputs/weights float32 [5, 2]", "outputs/indices int64 [5, 2]"}));
}

TEST(SignatureTest, MlpKeepsTheShapeOfItsTokens) {
  const Signature s = signature(Component::mlp, {{"dim", 6}, {"inter_dim", 10}, {"bias", true}},
                                json::object(), {2, 3}, true);
  EXPECT_EQ(lines(s.inputs),
            (Lines{"inputs/x float32 [2, 3, 6]", "params/gate_proj.weight float32 [10, 6]",
                   "params/gate_proj.bias float32 [10]", "params/up_proj.weight float32 [10, 6]",
                   "params/up_proj.bias float32 [10]", "params/down_proj.weight float32 [6, 10]",
                   "params/down_proj.bias float32 [6]", "cotangents/y float32 [2, 3, 6]"}));
  EXPECT_TRUE(has(s.outputs, "grads/down_proj.bias"));
  const Signature relu2 = signature(Component::mlp, {{"dim", 6}, {"inter_dim", 10}, {"activation", "relu2"}},
                                    json::object(), {3}, false);
  EXPECT_EQ(lines(relu2.inputs), (Lines{"inputs/x float32 [3, 6]", "params/up_proj.weight float32 [10, 6]",
                                        "params/down_proj.weight float32 [6, 10]"}));
}

TEST(SignatureTest, ExpertsWorkInTheLatentWidth) {
  const Signature s =
      signature(Component::experts, small_layer({{"moe_latent_size", 4}, {"expert_bias", true}}),
                json::object(), {5}, false);
  EXPECT_EQ(lines(s.inputs),
            (Lines{"inputs/x float32 [5, 4]", "inputs/token_mask? bool [5]", "inputs/weights float32 [5, 2]",
                   "inputs/indices int64 [5, 2]", "params/gate_and_up_projs float32 [8, 4, 24]",
                   "params/down_projs float32 [8, 12, 4]", "params/gate_up_proj_bias float32 [8, 24]",
                   "params/down_proj_bias float32 [8, 4]"}));
  EXPECT_EQ(lines(s.outputs), (Lines{"outputs/y float32 [5, 4]"}));
}

TEST(SignatureTest, ExpertsWithoutAGateHaveHalfTheColumns) {
  const Signature s = signature(Component::experts, small_layer({{"expert_activation", "relu2"}}),
                                json::object(), {5}, false);
  EXPECT_TRUE(std::ranges::count(lines(s.inputs), "params/gate_and_up_projs float32 [8, 16, 12]") == 1);
}

TEST(SignatureTest, MoeHasThePartsOfItsConfig) {
  const Signature s = signature(Component::moe,
                                small_layer({{"n_shared_experts", 2},
                                             {"shared_expert_gate", true},
                                             {"moe_latent_size", 4},
                                             {"aux_loss_coeff", 0.5}}),
                                json::object(), {2, 3}, true);
  EXPECT_EQ(lines(s.inputs),
            (Lines{"inputs/x float32 [2, 3, 16]", "inputs/padding_mask? bool [2, 3]",
                   "inputs/replay_indices? int64 [6, 2]", "params/gate.weight float32 [8, 16]",
                   "params/experts.gate_and_up_projs float32 [8, 4, 24]",
                   "params/experts.down_projs float32 [8, 12, 4]",
                   "params/shared_experts.gate_proj.weight float32 [24, 16]",
                   "params/shared_experts.up_proj.weight float32 [24, 16]",
                   "params/shared_experts.down_proj.weight float32 [16, 24]",
                   "params/shared_expert_gate.weight float32 [1, 16]",
                   "params/fc1_latent_proj.weight float32 [4, 16]",
                   "params/fc2_latent_proj.weight float32 [16, 4]", "cotangents/y float32 [2, 3, 16]"}));
  EXPECT_TRUE(has(s.outputs, "outputs/aux_loss"));
  EXPECT_TRUE(has(s.outputs, "grads/shared_expert_gate.weight"));
}

TEST(SignatureTest, AFakeGateHasNoParameters) {
  const Signature s = signature(Component::moe, small_layer({{"aux_loss_coeff", 0.5}}),
                                {{"fake_balanced_gate", true}}, {1, 3}, true);
  EXPECT_FALSE(has(s.inputs, "params/gate.weight"));
  EXPECT_FALSE(has(s.outputs, "outputs/aux_loss"));
}

TEST(SignatureTest, InitGivesTheParametersOfMoe) {
  const json config = small_layer({{"n_shared_experts", 1}, {"expert_bias", true}});
  const Signature moe = signature(Component::moe, config, json::object(), {1, 1}, false);
  const Signature init = signature(Component::init, config, {{"seed", 1}}, {}, false);
  EXPECT_TRUE(init.inputs.empty());
  for (const TensorSpec& spec : moe.inputs)
    if (spec.name.starts_with("params/")) {
      EXPECT_TRUE(has(init.outputs, "outputs/" + spec.name.substr(7))) << spec.name;
    }
}

TEST(SignatureTest, MetricsArePerLayerAndAggregated) {
  const Signature s = signature(Component::metrics, small_layer(), json::object(), {3}, true);
  EXPECT_EQ(lines(s.inputs), (Lines{"inputs/expert_load int64 [3, 8]"}));
  EXPECT_TRUE(std::ranges::count(lines(s.outputs), "outputs/expert_utilization float64 [3, 8]") == 1);
  EXPECT_TRUE(has(s.outputs, "outputs/expert_diversity_min"));
}

/// A call whose tensors are all there and zero.
Call good_call(Component component, const json& config, const Shape& tokens, bool backward) {
  Call call{component, config, json::object(), {}, backward};
  for (const TensorSpec& spec : signature(component, config, call.options, tokens, backward).inputs)
    call.tensors[spec.name] = Tensor(spec.dtype, spec.shape);
  return call;
}

std::string input_error_of(const Call& call) {
  return error_of([&] { check_inputs(call); });
}

TEST(CheckInputs, TakesWhatTheSignatureAsksFor) {
  EXPECT_EQ(input_error_of(good_call(Component::gate, small_layer(), {5}, true)), "no error");
  EXPECT_EQ(input_error_of(good_call(Component::moe, small_layer(), {2, 3}, true)), "no error");
  EXPECT_EQ(input_error_of(good_call(Component::experts, small_layer(), {0}, true)), "no error");
  EXPECT_EQ(input_error_of(good_call(Component::mlp, {{"dim", 6}, {"inter_dim", 10}}, {2, 3}, true)),
            "no error");
}

TEST(CheckInputs, OptionalTensorsAndOtherFloatingTypesAreFine) {
  Call call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors.erase("inputs/token_mask");
  call.tensors.erase("inputs/replay_indices");
  call.tensors["inputs/x"] = Tensor(DType::bfloat16, {5, 16});
  EXPECT_EQ(input_error_of(call), "no error");
}

TEST(CheckInputs, NamesTheTensorThatIsMissing) {
  for (const char* name : {"inputs/x", "params/weight", "cotangents/weights"}) {
    Call call = good_call(Component::gate, small_layer(), {5}, true);
    call.tensors.erase(name);
    EXPECT_EQ(input_error_of(call), "missing dataset '" + std::string(name) + "'");
  }
}

TEST(CheckInputs, NamesTheTensorWithTheWrongShape) {
  Call call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors["params/weight"] = Tensor(DType::float32, {16, 8});
  EXPECT_EQ(input_error_of(call), "dataset 'params/weight' has shape [16, 8]: want [8, 16]");
  call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors["inputs/x"] = Tensor(DType::float32, {5, 15});
  EXPECT_EQ(input_error_of(call), "dataset 'inputs/x' has shape [5, 15]: want [5, 16]");
  call.tensors["inputs/x"] = Tensor(DType::float32, {});
  EXPECT_EQ(input_error_of(call), "dataset 'inputs/x' is a scalar: want [..., width]");
}

TEST(CheckInputs, NamesTheTensorOfTheWrongKind) {
  Call call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors["inputs/x"] = Tensor(DType::int64, {5, 16});
  EXPECT_EQ(input_error_of(call), "dataset 'inputs/x' has dtype int64: want a floating one such as float32");
  call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors["inputs/token_mask"] = Tensor(DType::float32, {5});
  EXPECT_EQ(input_error_of(call), "dataset 'inputs/token_mask' has dtype float32: want bool");
  call = good_call(Component::experts, small_layer(), {5}, false);
  call.tensors["inputs/indices"] = Tensor(DType::boolean, {5, 2});
  EXPECT_EQ(input_error_of(call), "dataset 'inputs/indices' has dtype bool: want int64");
}

TEST(CheckInputs, ExpertIdsAreInRange) {
  for (const double id : {-2.0, 8.0}) {
    Call call = good_call(Component::experts, small_layer(), {5}, false);
    call.tensors["inputs/indices"].set(3, id);
    EXPECT_EQ(input_error_of(call), "dataset 'inputs/indices' holds the expert id " +
                                        std::to_string(static_cast<int>(id)) +
                                        ": want 0 to 7, or -1 for no expert");
  }
  Call call = good_call(Component::experts, small_layer(), {5}, false);
  call.tensors["inputs/indices"].set(3, -1.0);
  EXPECT_EQ(input_error_of(call), "no error");
}

TEST(CheckInputs, NullSlotsHaveTheIdThatTheConfigSays) {
  const std::string wants = "dataset 'inputs/replay_indices' holds the expert id ";
  for (const auto& [rule, id, finding] :
       {std::tuple{"given", -1, wants + "-1: want 0 to 7, an expert for every slot"},
        std::tuple{"minus_one", -1, std::string("no error")},
        std::tuple{"minus_one", 8, wants + "8: want 0 to 7, or -1 for no expert"},
        std::tuple{"n_routed_experts", 8, std::string("no error")},
        std::tuple{"n_routed_experts", -1, wants + "-1: want 0 to 7, or 8 for no expert"}}) {
    Call call = good_call(Component::gate, small_layer({{"null_slots", rule}}), {5}, false);
    call.tensors["inputs/replay_indices"].set(3, id);
    EXPECT_EQ(input_error_of(call), finding) << rule;
  }
}

TEST(CheckInputs, NamesTheTensorThatDoesNotBelong) {
  Call call = good_call(Component::gate, small_layer(), {5}, false);
  call.tensors["params/bias"] = Tensor(DType::float32, {8});
  EXPECT_EQ(input_error_of(call), "dataset 'params/bias' belongs to no input of this gate call");
}

}  // namespace
}  // namespace moeref
