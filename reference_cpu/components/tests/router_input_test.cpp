// router_input.hpp: the gate's input by hand, its gradients as central differences, and its initial values.
#include "reference_cpu/components/router_input.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

MoEConfig normed(std::int64_t experts, std::int64_t dim, double eps) {
  MoEConfig c = small_config(experts, 1, dim);
  c.router_input_norm = true;
  c.router_input_norm_eps = eps;
  c.score_func = ScoreFunc::sigmoid;
  return c;
}

TEST(RouterInputTest, LogitsAreThoseOfNormalisedTokens) {
  // mean(9, 0, 0, 7) + 12 = 16, so x / 4; times the scale, and 1 / sqrt(4).
  Call call = small_call(Component::gate, normed(1, 4, 1.0),
                         {{"inputs/x", tensor({1, 4}, {6, 0, 0, 4})},
                          {"params/input_scale", tensor({4}, {2, 1, 1, 3})},
                          {"params/weight", tensor({1, 4}, {1, 5, 5, 10})}});
  const double root = std::sqrt((36.0 + 16.0) / 4.0 + 1.0);
  EXPECT_NEAR(values_of(evaluate(call), "stages/logits")[0], (6.0 * 2.0 + 4.0 * 3.0 * 10.0) / root / 2.0,
              1e-14);
  // A token of zeros stays one.
  call.tensors["inputs/x"] = tensor({1, 4}, {0, 0, 0, 0});
  EXPECT_EQ(values_of(evaluate(call), "stages/logits")[0], 0.0);
}

TEST(RouterInputTest, GradientsAreCentralDifferences) {
  for (const double eps : {1e-6, 0.5}) {
    MoEConfig c = normed(3, 3, eps);
    c.n_activated_experts = 2;
    c.norm_topk_prob = true;
    expect_central_differences(
        small_call(Component::gate, c,
                   {{"inputs/x", tensor({2, 3}, {.3, -1, .8, 1.2, -.4, .7})},
                    {"params/input_scale", tensor({3}, {.5, 1.5, -.7})},
                    {"params/weight", tensor({3, 3}, {.9, -.4, .2, 1.3, -.8, .6, -.5, .3, 1.1})},
                    {"cotangents/weights", tensor({2, 2}, {.9, -.4, .2, 1.3})}},
                   true));
  }
}

TEST(RouterInputTest, NoiseIsForTheGateAlone) {
  MoEConfig c = small_config(1, 1, 2);
  c.router_jitter = true;
  c.score_func = ScoreFunc::sigmoid;
  const Evaluation e = evaluate(small_call(Component::gate, c,
                                           {{"inputs/x", tensor({1, 2}, {3, 5})},
                                            {"inputs/router_noise", tensor({1, 2}, {2, .5})},
                                            {"params/weight", tensor({1, 2}, {7, 11})}}));
  EXPECT_EQ(values_of(e, "stages/logits")[0], 3 * 2 * 7 + 5 * .5 * 11);
}

TEST(RouterInputTest, GradientsWithNoiseAreCentralDifferences) {
  for (const bool norm : {false, true}) {
    MoEConfig c = norm ? normed(3, 3, 0.5) : small_config(3, 1, 3);
    c.router_jitter = true;
    c.n_activated_experts = 2;
    c.norm_topk_prob = true;
    NamedTensors tensors{{"inputs/x", tensor({2, 3}, {.3, -1, .8, 1.2, -.4, .7})},
                         {"inputs/router_noise", tensor({2, 3}, {1.1, .9, 1.25, .8, -1, .5})},
                         {"params/weight", tensor({3, 3}, {.9, -.4, .2, 1.3, -.8, .6, -.5, .3, 1.1})},
                         {"cotangents/weights", tensor({2, 2}, {.9, -.4, .2, 1.3})}};
    if (norm) tensors["params/input_scale"] = tensor({3}, {.5, 1.5, -.7});
    expect_central_differences(small_call(Component::gate, c, std::move(tensors), true));
  }
}

TEST(RouterInputTest, ScalesBeginAtOne) {
  const Evaluation e = evaluate(small_call(Component::init, normed(2, 3, 1e-6), {}, false, {{"seed", 1}}));
  EXPECT_EQ(values_of(e, "outputs/gate.input_scale"), (std::vector<double>{1, 1, 1}));
}

}  // namespace
}  // namespace moeref
