// mlp.hpp: forward by hand, gradients by central differences.
#include "reference_cpu/components/mlp.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/error.hpp"
#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

Call mlp(MLPConfig c, NamedTensors tensors, bool backward = false) {
  c.dtype = DType::float64;
  return {Component::mlp, to_json(c), nlohmann::json::object(), std::move(tensors), backward};
}
MLPConfig config(std::int64_t dim, std::int64_t inter, ActivationKind activation, bool bias, double limit) {
  MLPConfig c;
  c.dim = dim;
  c.inter_dim = inter;
  c.activation = activation;
  c.bias = bias;
  c.swiglu_limit = limit;
  return c;
}

TEST(MLPTest, SwiGLU) {
  const Call call = mlp(config(2, 1, ActivationKind::swiglu, true, 0.0),
                        {{"inputs/x", tensor({1, 2}, {1, 2})},
                         {"params/gate_proj.weight", tensor({1, 2}, {1, 1})},
                         {"params/gate_proj.bias", tensor({1}, {-1})},
                         {"params/up_proj.weight", tensor({1, 2}, {3, 0})},
                         {"params/up_proj.bias", tensor({1}, {1})},
                         {"params/down_proj.weight", tensor({2, 1}, {1, -2})},
                         {"params/down_proj.bias", tensor({2}, {10, 20})}});
  const auto y = values_of(evaluate(call), "outputs/y");
  EXPECT_NEAR(y[0], silu(2) * 4 + 10, 1e-14);
  EXPECT_NEAR(y[1], silu(2) * 4 * -2 + 20, 1e-14);
}

TEST(MLPTest, SwiGLULimitClampsTheGateAboveAndUpOnBothSides) {
  const auto y = [](double gate, double up) {
    return values_of(evaluate(mlp(config(1, 1, ActivationKind::swiglu, false, 2.0),
                                  {{"inputs/x", tensor({1, 1}, {1})},
                                   {"params/gate_proj.weight", tensor({1, 1}, {gate})},
                                   {"params/up_proj.weight", tensor({1, 1}, {up})},
                                   {"params/down_proj.weight", tensor({1, 1}, {1})}})),
                     "outputs/y")[0];
  };
  EXPECT_NEAR(y(5, 1), silu(2), 1e-15);
  EXPECT_NEAR(y(-5, 1), silu(-5), 1e-15);  // no lower limit
  EXPECT_NEAR(y(1, 5), silu(1) * 2, 1e-15);
  EXPECT_NEAR(y(1, -5), silu(1) * -2, 1e-15);
}

TEST(MLPTest, ReLU2HasNoGateAndIgnoresTheLimit) {
  const Call call = mlp(config(1, 2, ActivationKind::relu2, false, 0.5),
                        {{"inputs/x", tensor({2, 1}, {1, -1})},
                         {"params/up_proj.weight", tensor({2, 1}, {3, -2})},
                         {"params/down_proj.weight", tensor({1, 2}, {1, 10})}});
  EXPECT_EQ(values_of(evaluate(call), "outputs/y"), (std::vector<double>{9, 40}));
  EXPECT_THROW(
      evaluate(mlp(config(1, 2, ActivationKind::geglu, false, 0), {{"inputs/x", tensor({1, 1}, {1})}})),
      InputError);
}

TEST(MLPTest, TakesXOfAnyRank) {
  const Evaluation e = evaluate(
      mlp(config(1, 1, ActivationKind::relu2, false, 0), {{"inputs/x", tensor({2, 1, 1}, {2, 3})},
                                                          {"params/up_proj.weight", tensor({1, 1}, {1})},
                                                          {"params/down_proj.weight", tensor({1, 1}, {1})}}));
  EXPECT_EQ(e.results.at("outputs/y").shape, (Shape{2, 1, 1}));
  EXPECT_EQ(values_of(e, "outputs/y"), (std::vector<double>{4, 9}));
}

TEST(MLPTest, GradientsAreCentralDifferences) {
  for (const auto& [activation, limit] : {std::pair{ActivationKind::swiglu, 0.0},
                                          {ActivationKind::swiglu, 0.6},
                                          {ActivationKind::relu2, 0.0}}) {
    NamedTensors t{{"inputs/x", tensor({2, 2}, {.3, -1, .8, 1.2})},
                   {"params/up_proj.weight", tensor({3, 2}, {.5, -.3, .9, -1.1, .2, .4})},
                   {"params/up_proj.bias", tensor({3}, {.1, -.2, .7})},
                   {"params/down_proj.weight", tensor({2, 3}, {.8, .7, -.6, -.1, 1.3, .2})},
                   {"params/down_proj.bias", tensor({2}, {.3, 0})},
                   {"cotangents/y", tensor({2, 2}, {.9, -.4, .2, 1.3})}};
    if (activation == ActivationKind::swiglu) {
      t["params/gate_proj.weight"] = tensor({3, 2}, {1.1, .4, -.2, .5, .9, -.7});
      t["params/gate_proj.bias"] = tensor({3}, {.2, .3, -.4});
    }
    SCOPED_TRACE(std::string(name(activation)) + " " + std::to_string(limit));
    expect_central_differences(mlp(config(2, 3, activation, true, limit), std::move(t), true));
  }
}

}  // namespace
}  // namespace moeref
