// experts.hpp: routing of rows, weights, biases, empty experts and gradients.
#include "reference_cpu/components/experts.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/error.hpp"
#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

/// relu2 experts of one column: expert e maps x to (x up_e)^2 down_e.
Call relu2(std::int64_t experts, std::int64_t k, Tensor x, Tensor weights, Tensor indices,
           std::vector<double> up, std::vector<double> down, bool after = false) {
  MoEConfig c = small_config(experts, k);
  c.expert_activation = ActivationKind::relu2;
  c.apply_router_weight_after_down = after;
  return small_call(Component::experts, c,
                    {{"inputs/x", std::move(x)},
                     {"inputs/weights", std::move(weights)},
                     {"inputs/indices", std::move(indices)},
                     {"params/gate_and_up_projs", Tensor::of({experts, 1, 1}, std::span<const double>(up))},
                     {"params/down_projs", Tensor::of({experts, 1, 1}, std::span<const double>(down))}});
}
std::vector<double> y(const Call& call) { return values_of(evaluate(call), "outputs/y"); }

TEST(ExpertsTest, EveryTokenGoesToItsExperts) {
  // Expert 0: x^2, expert 1: (2 x)^2 * 10, expert 2: never.
  EXPECT_EQ(y(relu2(3, 2, tensor({2, 1}, {1, 3}), tensor({2, 2}, {.5, .25, 1, 2}), ids({2, 2}, {0, 1, 1, 0}),
                    {1, 2, 7}, {1, 10, 7})),
            (std::vector<double>{.5 * 1 + .25 * 40, 1 * 360 + 2 * 9}));
}

TEST(ExpertsTest, OpenSlotsGoNowhereAndDuplicatesCountTwice) {
  EXPECT_EQ(y(relu2(2, 2, tensor({3, 1}, {1, 1, 1}), tensor({3, 2}, {1, 2, 3, 4, 5, 6}),
                    ids({3, 2}, {-1, 1, 0, 0, -1, -1}), {1, 2}, {1, 1})),
            (std::vector<double>{8, 7, 0}));
}

TEST(ExpertsTest, OpenSlotsMayHaveTheIdPastTheLastExpert) {
  Call call = relu2(2, 2, tensor({3, 1}, {1, 1, 1}), tensor({3, 2}, {NAN, 2, 3, 4, NAN, NAN}),
                    ids({3, 2}, {2, 1, 0, 0, 2, 2}), {1, 2}, {1, 1});
  call.config["null_slots"] = "n_routed_experts";
  call.tensors["cotangents/y"] = tensor({3, 1}, {1, 1, 1});
  call.backward = true;
  EXPECT_EQ(y(call), (std::vector<double>{8, 7, 0}));
  EXPECT_EQ(values_of(evaluate(call), "grads/weights"), (std::vector<double>{0, 4, 1, 1, 0, 0}));
}

/// (x up)^2 down with x, up and down rounded to bfloat16 each, and their gradients.
TEST(ExpertsTest, OperandsAreRoundedToTheComputeType) {
  const double place = 0x1p-7, up = 1 + 0.75 * place, down = 1 + 1.5 * place, x = 1 + 0.25 * place;
  Call call = relu2(1, 1, tensor({1, 1}, {x}), tensor({1, 1}, {0.5}), ids({1, 1}, {0}), {up}, {down}, true);
  call.config["expert_compute_dtype"] = "bfloat16";
  call.tensors["cotangents/y"] = tensor({1, 1}, {1});
  call.backward = true;
  const Evaluation e = evaluate(call);
  const double u = 1 + place, d = 1 + 2 * place, p = 0.5;
  EXPECT_DOUBLE_EQ(values_of(e, "outputs/y")[0], u * u * d * p);
  EXPECT_DOUBLE_EQ(values_of(e, "grads/x")[0], 2 * u * u * d * p);
  EXPECT_DOUBLE_EQ(values_of(e, "grads/down_projs")[0], u * u * p);
  EXPECT_EQ(e.results.at("grads/x").dtype, DType::float64);
  // The bound is that of bfloat16, in which h, its square and o are held.
  EXPECT_GT(e.results.at("outputs/y").bound[0], 0x1p-8);
  EXPECT_LT(e.results.at("outputs/y").bound[0], 0x1p-3);
}

TEST(ExpertsTest, MaskedTokensGetExactZeros) {
  Call call =
      relu2(2, 1, tensor({2, 1}, {1, NAN}), tensor({2, 1}, {1, 1}), ids({2, 1}, {0, 1}), {1, 2}, {1, 1});
  call.tensors["inputs/token_mask"] = flags({true, false});
  const Evaluation e = evaluate(call);
  EXPECT_EQ(values_of(e, "outputs/y"), (std::vector<double>{1, 0}));
  EXPECT_EQ(e.results.at("outputs/y").bound[1], 0.0f);
}

TEST(ExpertsTest, TheWeightStandsBetweenActivationAndDownOrAfterIt) {
  // The same without biases; with them, the weight multiplies the down bias either way, and only the stages
  // differ.
  for (const bool after : {false, true}) {
    Call call = relu2(1, 1, tensor({1, 1}, {2}), tensor({1, 1}, {.5}), ids({1, 1}, {0}), {3}, {4}, after);
    const Evaluation e = evaluate(call);
    EXPECT_EQ(values_of(e, "outputs/y")[0], 36 * .5 * 4);
    EXPECT_EQ(values_of(e, "stages/activation")[0], after ? 36 : 18);
    EXPECT_EQ(values_of(e, "stages/down_projection")[0], after ? 144 : 72);
    call.config["expert_bias"] = true;
    call.tensors["params/gate_up_proj_bias"] = tensor({1, 1}, {-1});
    call.tensors["params/down_proj_bias"] = tensor({1, 1}, {100});
    EXPECT_EQ(y(call)[0], (25 * 4 + 100) * .5);
  }
}

TEST(ExpertsTest, TheWeightMayStandOnTheInput) {
  Call call = relu2(1, 1, tensor({1, 1}, {2}), tensor({1, 1}, {.5}), ids({1, 1}, {0}), {3}, {4});
  call.config["router_weight_on_input"] = true;
  EXPECT_EQ(y(call)[0], 9 * 4);  // (2 * .5 * 3)^2 * 4
  EXPECT_EQ(values_of(evaluate(call), "stages/up_projection")[0], 3);
  call.config["expert_bias"] = true;
  call.tensors["params/gate_up_proj_bias"] = tensor({1, 1}, {-1});
  call.tensors["params/down_proj_bias"] = tensor({1, 1}, {100});
  EXPECT_EQ(y(call)[0], 4 * 4 + 100);  // neither bias is weighted
  call.config["apply_router_weight_after_down"] = true;
  EXPECT_THROW(y(call), InputError);
}

TEST(ExpertsTest, IdentityExpertsReturnTheirInputTimesTheWeight) {
  // Expert 0 squares; experts 1 and 2 have no parameters, and expert 2 is chosen twice.
  for (const char* where : {"", "apply_router_weight_after_down", "router_weight_on_input"}) {
    Call call = relu2(3, 2, tensor({3, 1}, {3, 5, 7}), tensor({3, 2}, {.5, .25, 2, 4, 1, 1}),
                      ids({3, 2}, {0, 1, 2, 2, 1, 0}), {1, 1, 1}, {1, 1, 1});
    call.tensors["params/gate_and_up_projs"] = call.tensors["params/down_projs"] = tensor({1, 1, 1}, {1});
    call.config["n_identity_experts"] = 2;
    if (*where) call.config[where] = true;
    call.tensors["inputs/token_mask"] = flags({true, true, false});
    call.tensors["cotangents/y"] = tensor({3, 1}, {10, 100, 1000});
    call.backward = true;
    const Evaluation e = evaluate(call);
    const bool on_input = std::string(where) == "router_weight_on_input";
    EXPECT_EQ(values_of(e, "outputs/y"), (std::vector<double>{(on_input ? 2.25 : 4.5) + .75, 30, 0}));
    const std::vector<double> dw = values_of(e, "grads/weights"), dx = values_of(e, "grads/x");
    EXPECT_EQ(dw, (std::vector<double>{90, 30, 500, 500, 0, 0}));
    EXPECT_EQ(dx, (std::vector<double>{(on_input ? 15.0 : 30.0) + 2.5, 600, 0}));
    EXPECT_EQ(values_of(e, "stages/up_projection")[1], 0.0);
    EXPECT_EQ(values_of(e, "stages/down_projection")[1],
              std::string(where) == "apply_router_weight_after_down" ? 3.0 : .75);
    // The one expert with parameters cannot be spread over two ranks.
    call.options["ep_size"] = 2;
    EXPECT_THROW(evaluate(call), InputError);
  }
  MoEConfig c = small_config(2, 1);
  c.n_identity_experts = 2;
  EXPECT_THROW(parse_moe_config(to_json(c)), InputError);
}

TEST(ExpertsTest, GradientsOfIdentityExpertsAreCentralDifferences) {
  for (const std::string place : {"inside", "after", "on input"}) {
    MoEConfig c = small_config(3, 2, 2, 1);
    c.n_identity_experts = 2;
    c.expert_bias = true;
    c.apply_router_weight_after_down = place == "after";
    c.router_weight_on_input = place == "on input";
    SCOPED_TRACE(place);
    expect_central_differences(
        small_call(Component::experts, c,
                   {{"inputs/x", tensor({3, 2}, {.3, -1, .8, 1.2, -.4, .7})},
                    {"inputs/weights", tensor({3, 2}, {.5, .25, 1.5, -.75, .6, .9})},
                    {"inputs/indices", ids({3, 2}, {0, 2, 1, 2, 1, -1})},
                    {"params/gate_and_up_projs", tensor({1, 2, 2}, {.7, -.9, .4, 1.1})},
                    {"params/gate_up_proj_bias", tensor({1, 2}, {.2, -.1})},
                    {"params/down_projs", tensor({1, 1, 2}, {.5, -.3})},
                    {"params/down_proj_bias", tensor({1, 2}, {.1, -.2})},
                    {"cotangents/y", tensor({3, 2}, {.9, -.4, .2, 1.3, -.8, .6})}},
                   true));
  }
}

TEST(ExpertsTest, Layouts) {
  MoEConfig c = small_config(1, 1, 1, 2);
  NamedTensors t{{"inputs/x", tensor({1, 1}, {1})},
                 {"inputs/weights", tensor({1, 1}, {1})},
                 {"inputs/indices", ids({1, 1}, {0})},
                 {"params/gate_and_up_projs", tensor({1, 1, 4}, {20, 30, 2, 3})},
                 {"params/down_projs", tensor({1, 2, 1}, {1, 1000})}};
  // Halves: gates 20, 30, ups 2, 3; silu(g) = g at these.
  EXPECT_NEAR(y(small_call(Component::experts, c, t))[0], 40 + 90000, 1e-2);
  c.expert_activation = ActivationKind::quick_geglu;
  c.activation_limit = 100;
  c.activation_alpha = 50;
  // Interleaved: gates 20, 2, ups 30, 3.
  EXPECT_NEAR(y(small_call(Component::experts, c, t))[0], 20 * 31 + 2 * 4 * 1000, 1e-9);
}

TEST(ExpertsTest, EmptyExpertsHaveExactlyZeroGradients) {
  Call call = relu2(3, 1, tensor({2, 1}, {1, 3}), tensor({2, 1}, {.5, 1}), ids({2, 1}, {2, 2}), {1, NAN, 7},
                    {1, NAN, 7});
  call.config["expert_bias"] = true;
  call.tensors["params/gate_up_proj_bias"] = tensor({3, 1}, {1, 1, 1});
  call.tensors["params/down_proj_bias"] = tensor({3, 1}, {1, 1, 1});
  call.tensors["cotangents/y"] = tensor({2, 1}, {1, -1});
  call.backward = true;
  const Evaluation e = evaluate(call);
  for (const char* name :
       {"grads/gate_and_up_projs", "grads/down_projs", "grads/gate_up_proj_bias", "grads/down_proj_bias"}) {
    const BoundedTensor& d = e.results.at(name);
    for (const std::size_t empty : {0u, 1u}) {
      EXPECT_EQ(d.value[empty], 0.0) << name;
      EXPECT_EQ(d.bound[empty], 0.0f) << name;
    }
    EXPECT_NE(d.value[2], 0.0) << name;
  }
}

TEST(ExpertsTest, GradientsOfOpenAndMaskedSlotsAreZero) {
  Call call = relu2(2, 2, tensor({2, 1}, {1, 3}), tensor({2, 2}, {.5, 1, 1, 1}), ids({2, 2}, {0, -1, 1, 0}),
                    {1, 2}, {1, 1});
  call.tensors["inputs/token_mask"] = flags({true, false});
  call.tensors["cotangents/y"] = tensor({2, 1}, {1, 5});
  call.backward = true;
  const Evaluation e = evaluate(call);
  // y = .5 x^2: dx = 1, dw = 1, d up = .5 * 2 * x * x.
  EXPECT_EQ(values_of(e, "grads/x"), (std::vector<double>{1, 0}));
  EXPECT_EQ(values_of(e, "grads/weights"), (std::vector<double>{1, 0, 0, 0}));
  EXPECT_EQ(values_of(e, "grads/gate_and_up_projs"), (std::vector<double>{1, 0}));
  EXPECT_EQ(values_of(e, "grads/down_projs"), (std::vector<double>{.5, 0}));
}

TEST(ExpertsTest, AnEmptyCall) {
  const Call call = relu2(2, 1, Tensor(DType::float64, {0, 1}), Tensor(DType::float64, {0, 1}),
                          Tensor(DType::int64, {0, 1}), {1, 2}, {1, 2});
  EXPECT_TRUE(y(call).empty());
}

TEST(ExpertsTest, IdsPastTheLastExpertAreAnError) {
  EXPECT_THROW(y(relu2(2, 1, tensor({1, 1}, {1}), tensor({1, 1}, {1}), ids({1, 1}, {2}), {1, 2}, {1, 2})),
               InputError);
}

TEST(ExpertsTest, GradientsAreCentralDifferences) {
  for (const ActivationKind kind :
       {ActivationKind::swiglu, ActivationKind::swigluoai, ActivationKind::quick_geglu, ActivationKind::geglu,
        ActivationKind::relu2, ActivationKind::geglu_erf, ActivationKind::silu, ActivationKind::gelu,
        ActivationKind::gelu_tanh, ActivationKind::relu, ActivationKind::situ})
    for (const std::string place : {"inside", "after", "on input"})
      for (const double limit : {0.0, 0.8}) {
        MoEConfig c = small_config(3, 2, 2, 2);
        c.expert_activation = kind;
        c.apply_router_weight_after_down = place == "after";
        c.router_weight_on_input = place == "on input";
        c.expert_bias = true;
        c.swiglu_limit = limit;
        c.activation_limit = limit > 0.0 || kind == ActivationKind::swigluoai ? limit : 7.0;
        const std::int64_t up = c.up_dim();
        std::vector<double> up_projs, up_bias;
        for (std::int64_t i = 0; i < 3 * 2 * up; ++i)
          up_projs.push_back(std::sin(1.0 + 2.3 * static_cast<double>(i)));
        for (std::int64_t i = 0; i < 3 * up; ++i)
          up_bias.push_back(0.3 * std::cos(1.7 * static_cast<double>(i)));
        SCOPED_TRACE(std::string(name(kind)) + " " + place + " " + std::to_string(limit));
        expect_central_differences(small_call(
            Component::experts, c,
            {{"inputs/x", tensor({3, 2}, {.3, -1, .8, 1.2, -.4, .7})},
             {"inputs/weights", tensor({3, 2}, {.5, .25, 1.5, -.75, .6, .9})},
             {"inputs/indices", ids({3, 2}, {0, 2, 2, 2, 0, -1})},
             {"params/gate_and_up_projs", Tensor::of({3, 2, up}, std::span<const double>(up_projs))},
             {"params/gate_up_proj_bias", Tensor::of({3, up}, std::span<const double>(up_bias))},
             {"params/down_projs", tensor({3, 2, 2}, {.5, -.3, .9, -1.1, .2, .4, .8, .7, -.6, -.1, 1.3, .2})},
             {"params/down_proj_bias", tensor({3, 2}, {.1, -.2, .3, .4, -.5, .6})},
             {"cotangents/y", tensor({3, 2}, {.9, -.4, .2, 1.3, -.8, .6})}},
            true));
      }
}

}  // namespace
}  // namespace moeref
