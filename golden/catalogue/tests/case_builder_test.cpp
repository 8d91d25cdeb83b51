#include "golden/catalogue/case_builder.hpp"

#include <gtest/gtest.h>

#include "golden/catalogue/case_margin.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"

namespace moeref {
namespace {

using nlohmann::json;

json small_config() {
  return json::parse(
      R"({"n_routed_experts": 8, "n_shared_experts": 0, "n_activated_experts": 2, "n_expert_groups": 1,
    "n_limited_groups": 1, "train_gate": true, "gate_bias_update_factor": 0.001, "aux_loss_coeff": 0.1,
    "score_func": "sigmoid", "route_scale": 1.0, "dim": 8, "inter_dim": 16, "moe_inter_dim": 6,
    "norm_topk_prob": true, "dtype": "float32"})");
}

CaseSpec small_case(Component component, Shape tokens = {12}) {
  CaseSpec spec;
  spec.name = "small";
  spec.component = component;
  spec.config = small_config();
  spec.tokens = std::move(tokens);
  spec.backward = true;
  return spec;
}

std::string message(const json& text) {
  try {
    parse_case_spec(text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "none";
}

TEST(CaseSpec, PrintsWhatItParses) {
  CaseSpec spec = small_case(Component::gate);
  EXPECT_EQ(parse_case_spec(to_json(spec)), spec);
  spec.options = {{"training", false}};
  spec.x_dtype = DType::bfloat16;
  spec.seed = 99;
  spec.margin = 0.0;
  spec.flags = {"A1"};
  spec.note = "why";
  spec.data[DataRole::x] = {"normal", {{"scale", 2.0}}};
  EXPECT_EQ(parse_case_spec(to_json(spec)), spec);
  EXPECT_EQ(parse_case_spec(json::parse(to_json(spec).dump())), spec);
}

TEST(CaseSpec, ErrorsNameCaseAndField) {
  json text = to_json(small_case(Component::gate));
  text["tokenz"] = {3};
  EXPECT_EQ(message(text), "case 'gate/small': has an unknown field 'tokenz'");
  text.erase("tokenz");
  text.erase("config");
  EXPECT_EQ(message(text), "case 'gate/small': lacks the field 'config'");
  text["config"] = small_config();
  text["tokens"] = {-1};
  EXPECT_NE(message(text).find("field 'tokens' is [-1]: want [T]"), std::string::npos);
  text["tokens"] = {4};
  text["case"] = "No Such/Name";
  EXPECT_NE(message(text).find("lower-case letters"), std::string::npos);
  text["case"] = "small";
  text["component"] = "router";
  EXPECT_NE(message(text).find("unknown component 'router'"), std::string::npos);
  text["component"] = "gate";
  text["seed"] = -4;
  EXPECT_NE(message(text).find("field 'seed' is -4"), std::string::npos);
  EXPECT_NE(message(json::array()).find("want a JSON object"), std::string::npos);
}

TEST(BuildCall, ErrorsNameTheCase) {
  CaseSpec spec = small_case(Component::gate);
  spec.config["n_expert_groups"] = 3;
  try {
    build_call(spec);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("case 'gate/small': config field 'n_expert_groups'"),
              std::string::npos)
        << error.what();
  }
}

TEST(BuildCall, HasEveryTensorOfEveryComponent) {
  for (const Component component : kComponents) {
    CaseSpec spec = small_case(component, component == Component::moe ? Shape{2, 6} : Shape{12});
    if (component == Component::mlp) spec.config = {{"dim", 8}, {"inter_dim", 6}, {"bias", true}};
    if (component == Component::init) spec.tokens.clear();
    const Call call = build_call(spec);
    if (component != Component::init) {
      EXPECT_NO_THROW(check_inputs(call)) << name(component);
    }
    const Signature want = signature(component, spec.config, spec.options, spec.tokens, true);
    for (const TensorSpec& tensor : want.inputs)
      if (tensor.required) {
        ASSERT_TRUE(call.tensors.contains(tensor.name)) << tensor.name;
        EXPECT_EQ(call.tensors.at(tensor.name).dtype(), tensor.dtype) << tensor.name;
        EXPECT_EQ(call.tensors.at(tensor.name).shape(), tensor.shape) << tensor.name;
      }
  }
}

TEST(BuildCall, IsAPureFunction) {
  const CaseSpec spec = small_case(Component::moe, {2, 6});
  EXPECT_EQ(build_call(spec).tensors, build_call(spec).tensors);
}

TEST(BuildCall, FewerTokensAndExpertsKeepTheOthers) {
  CaseSpec large = small_case(Component::experts), small = large;
  small.tokens = {5};
  small.config["n_routed_experts"] = 4;
  const Call a = build_call(large), b = build_call(small);
  const Tensor &x = a.tensors.at("inputs/x"), &fewer = b.tensors.at("inputs/x");
  for (std::int64_t i = 0; i < fewer.size(); ++i) EXPECT_EQ(fewer[i], x[i]);
  const Tensor &w = a.tensors.at("params/down_projs"), &fewer_w = b.tensors.at("params/down_projs");
  for (std::int64_t i = 0; i < fewer_w.size(); ++i) EXPECT_EQ(fewer_w[i], w[i]);
}

TEST(BuildCall, MasksMeanTheSameUnderBothNames) {
  CaseSpec gate = small_case(Component::gate), moe = small_case(Component::moe);
  gate.margin = moe.margin = 0.0;
  gate.data[DataRole::mask] = moe.data[DataRole::mask] = {"first", {}};
  EXPECT_EQ(build_call(gate).tensors.at("inputs/token_mask")[0], 0.0);
  EXPECT_EQ(build_call(moe).tensors.at("inputs/padding_mask")[0], 1.0);
  gate.data[DataRole::mask] = {"absent", {}};
  EXPECT_FALSE(build_call(gate).tensors.contains("inputs/token_mask"));
}

TEST(BuildCall, DtypeOfXReachesInputsAndCotangents) {
  CaseSpec spec = small_case(Component::experts);
  spec.x_dtype = DType::bfloat16;
  Call call = build_call(spec);
  EXPECT_EQ(call.tensors.at("inputs/x").dtype(), DType::bfloat16);
  EXPECT_EQ(call.tensors.at("inputs/weights").dtype(), DType::bfloat16);
  EXPECT_EQ(call.tensors.at("cotangents/y").dtype(), DType::bfloat16);
  EXPECT_EQ(call.tensors.at("params/down_projs").dtype(), DType::float32);
  spec.config["router_weights_fp32"] = true;
  EXPECT_EQ(build_call(spec).tensors.at("inputs/weights").dtype(), DType::float32);
}

TEST(BuildCall, GateHalfOfABiasHasItsOwnChoice) {
  for (const bool interleaved : {false, true}) {
    CaseSpec spec = small_case(Component::experts);
    spec.config["expert_bias"] = true;
    if (interleaved) spec.config["expert_activation"] = "quick_geglu";
    spec.data[DataRole::biases] = {"constant", {{"value", 1.0}}};
    spec.data[DataRole::gate_bias] = {"constant", {{"value", 50.0}}};
    const Call call = build_call(spec);
    const Tensor& bias = call.tensors.at("params/gate_up_proj_bias");
    for (std::int64_t column = 0; column < 12; ++column)
      EXPECT_EQ(bias[column] == 50.0, interleaved ? column % 2 == 0 : column < 6) << column;
  }
}

TEST(Margin, HoldsForEveryComponentThatRoutes) {
  for (const Component component : {Component::gate, Component::moe, Component::bias_update}) {
    CaseSpec spec = small_case(component, {40});
    spec.config["dtype"] = "bfloat16";
    if (component == Component::bias_update) spec.options = {{"steps", 3}, {"micro_batches", 2}};
    const Evaluation evaluation = evaluate(build_call(spec));
    ASSERT_FALSE(evaluation.routing.empty());
    for (const RoutingScores& routing : evaluation.routing) EXPECT_TRUE(close_tokens(routing, 2.0).empty());
    spec.margin = 0.0;
    std::size_t close = 0;
    for (const RoutingScores& routing : evaluate(build_call(spec)).routing)
      close += close_tokens(routing, 2.0).size();
    EXPECT_GT(close, 0u) << "nothing to redraw in " << name(component) << ": the test shows nothing";
  }
}

TEST(Margin, LooksAtTheCutBetweenGroups) {
  RoutingScores routing{
      "outputs/indices",        1,          4,           2, 1, 1, false, {0.9, 0.1, 0.5, 0.5},
      {0.01, 0.01, 0.01, 0.01}, {1.0, 1.0}, {0.02, 0.02}};
  EXPECT_EQ(close_tokens(routing, 1.0).size(), 1u);
  routing.group = {1.5, 1.0};
  EXPECT_TRUE(close_tokens(routing, 1.0).empty());
  routing.score[1] = 0.89;  // within the group
  EXPECT_EQ(close_tokens(routing, 1.0).size(), 1u);
  EXPECT_TRUE(close_tokens(routing, 0.1).empty());
}

TEST(Margin, GivesUpWithAClearError) {
  CaseSpec spec = small_case(Component::gate);
  spec.data[DataRole::gate_weight] = {"constant", {}};
  spec.config["gate_bias_update_factor"] = 0.0;  // a correction bias would tell the experts apart
  try {
    build_call(spec);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(
        std::string(error.what()).find("case 'gate/small': token 0 of 'inputs/x' has no selection margin"),
        std::string::npos);
  }
}

}  // namespace
}  // namespace moeref
