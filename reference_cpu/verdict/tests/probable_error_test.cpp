// probable_error.hpp: sums of 4096 terms, honest and not.
#include "reference_cpu/verdict/probable_error.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "moeref/verdict.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kTokens = 8, kTerms = 4096;

/// y = sum over kTerms of down * relu(up x)^2, with exact integers before the sum.
Call mlp_call(const char* dtype) {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", 1}, {"inter_dim", kTerms}, {"dtype", dtype}, {"activation", "relu2"}};
  call.options = nlohmann::json::object();
  std::mt19937 bits(5);
  const DType held = parse_dtype(dtype);
  Tensor x(held, {kTokens, 1}), up(held, {kTerms, 1}), down(held, {1, kTerms});
  for (std::int64_t t = 0; t < kTokens; ++t) x.set(t, static_cast<double>(t + 1));
  for (std::int64_t i = 0; i < kTerms; ++i) {
    up.set(i, static_cast<double>(1 + i % 3));
    down.set(i, 0.5 + static_cast<double>(bits()) / 4294967296.0);
  }
  call.tensors = {{"inputs/x", x}, {"params/up_proj.weight", up}, {"params/down_proj.weight", down}};
  return call;
}

float nearest(double value) { return static_cast<float>(value); }
/// Drops what float32 cannot hold instead of rounding it: an accumulator that truncates.
float truncated(double value) {
  const float rounded = nearest(value);
  return rounded > value ? std::nextafter(rounded, 0.0f) : rounded;
}

/// The call in float32, one term after the other; `add` rounds each sum, `multiply` each product.
template <class Add>
Tensor summed(const Call& call, const Add& add) {
  const Tensor &x = call.tensors.at("inputs/x"), &up = call.tensors.at("params/up_proj.weight"),
               &down = call.tensors.at("params/down_proj.weight");
  Tensor y(DType::float32, {kTokens, 1});
  for (std::int64_t t = 0; t < kTokens; ++t) {
    float sum = 0.0f;
    for (std::int64_t i = 0; i < kTerms; ++i) {
      const double h = up[i] * x[t];
      sum = add(static_cast<double>(sum) + static_cast<double>(nearest(h * h * down[i])));
    }
    y.set(t, sum);
  }
  return y;
}

TensorVerdict verdict_on(const Call& call, const Tensor& y) {
  return judge(call, {{"outputs/y", y}}).tensors.at(0);
}

TEST(ProbableErrorTest, AnAccumulatorThatTruncatesIsWithinTheBoundAndImprobable) {
  const Call call = mlp_call("float32");
  const TensorVerdict v = verdict_on(call, summed(call, truncated));
  EXPECT_EQ(v.verdict, Verdict::pass);
  EXPECT_DOUBLE_EQ(v.probable_ratio, 64.0 * v.ratio);
  EXPECT_GT(v.probable_ratio, kImprobable);
}

TEST(ProbableErrorTest, HonestSumsAreProbable) {
  const Call call = mlp_call("float32");
  const TensorVerdict v = verdict_on(call, summed(call, nearest));
  EXPECT_EQ(v.verdict, Verdict::pass);
  EXPECT_GT(v.ratio, 0.0);
  EXPECT_LT(v.probable_ratio, kImprobable);
}

TEST(ProbableErrorTest, NothingIsClaimedOfNarrowerTypes) {
  const Call call = mlp_call("bfloat16");
  EXPECT_EQ(probable_share(call, "outputs/y"), 1.0);
}

TEST(ProbableErrorTest, OfALayerTheShortestSumThatAResultEndsInCounts) {
  Call call;
  call.component = Component::moe;
  call.config = {{"n_routed_experts", 4},
                 {"n_shared_experts", 1},
                 {"n_activated_experts", 2},
                 {"n_expert_groups", 1},
                 {"n_limited_groups", 1},
                 {"train_gate", true},
                 {"score_func", "softmax"},
                 {"gate_bias_update_factor", 0.0},
                 {"aux_loss_coeff", 0.0},
                 {"route_scale", 1.0},
                 {"dim", 64},
                 {"inter_dim", 64},
                 {"moe_inter_dim", 16},
                 {"norm_topk_prob", false},
                 {"dtype", "float32"},
                 {"shared_expert_inter_dim", 9}};
  call.options = nlohmann::json::object();
  call.tensors["inputs/x"] = Tensor(DType::float32, {1, 64});
  EXPECT_EQ(probable_share(call, "stages/logits"), 1.0 / 8.0);
  EXPECT_EQ(probable_share(call, "stages/down_projection"), 1.0 / 4.0);
  EXPECT_EQ(probable_share(call, "outputs/y"), 1.0 / 3.0);
  EXPECT_EQ(probable_share(call, "grads/x"), 1.0 / 2.0);
  EXPECT_EQ(probable_share(call, "outputs/weights"), 1.0);
  call.options["gate_precision"] = "float64";
  EXPECT_EQ(probable_share(call, "stages/logits"), 1.0);
}

}  // namespace
}  // namespace moeref
