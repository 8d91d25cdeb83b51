// Who computed? Reference numbers are recognised, honest float32 sums never are.
#include "tools/judging/identity.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moeref {
namespace {

constexpr std::int64_t kTokens = 40, kDim = 8, kWidth = 8;

/// The shortest sums that count, so that float32 is at its best.
Call question(bool rough) {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", kDim}, {"inter_dim", kWidth}, {"dtype", "float32"}, {"activation", "relu2"}};
  call.options = nlohmann::json::object();
  std::mt19937 bits(7);
  std::normal_distribution<double> normal;
  const auto draw = [&](Shape shape) {
    Tensor out(DType::float32, std::move(shape));
    for (std::int64_t i = 0; i < out.size(); ++i)
      out.set(i, rough ? normal(bits) : std::round(4.0 * normal(bits)));
    return out;
  };
  call.tensors["inputs/x"] = draw({kTokens, kDim});
  call.tensors["params/up_proj.weight"] = draw({kWidth, kDim});
  call.tensors["params/down_proj.weight"] = draw({kDim, kWidth});
  return call;
}

/// The call in float, with the best that plain float32 has: fused products and a sum by halves.
float pairwise(const float* a, const float* b, std::int64_t n) {
  if (n == 2) return std::fma(a[0], b[0], a[1] * b[1]);
  return pairwise(a, b, n / 2) + pairwise(a + n / 2, b + n / 2, n / 2);
}

Tensor honest(const Call& call) {
  const auto x = call.tensors.at("inputs/x").as<float>(),
             up = call.tensors.at("params/up_proj.weight").as<float>(),
             down = call.tensors.at("params/down_proj.weight").as<float>();
  Tensor y(DType::float32, {kTokens, kDim});
  for (std::int64_t t = 0; t < kTokens; ++t) {
    float h[kWidth];
    for (std::int64_t i = 0; i < kWidth; ++i) {
      const float value =
          pairwise(&x[static_cast<std::size_t>(t * kDim)], &up[static_cast<std::size_t>(i * kDim)], kDim);
      h[i] = value > 0.0f ? value * value : 0.0f;
    }
    for (std::int64_t d = 0; d < kDim; ++d)
      y.set(t * kDim + d, pairwise(h, &down[static_cast<std::size_t>(d * kWidth)], kWidth));
  }
  return y;
}

Tensor reference(const Call& call, DType dtype) {
  return CpuReference().run(call).at("outputs/y").cast(dtype);
}

std::map<std::string, IdentityCount> counted(const Call& call, const NamedTensors& results) {
  ReferenceResults reference(call);
  return count_identity(reference, results);
}

TEST(IdentityTest, ReferenceIsRecognised) {
  const Call call = question(true);
  const IdentityCount count = counted(call, {{"outputs/y", reference(call, DType::float32)}}).at("outputs/y");
  EXPECT_GT(count.rough, kTokens * kDim * 9 / 10);
  EXPECT_EQ(count.equal, count.rough);
  // Its own digits too, which no float32 has.
  EXPECT_EQ(counted(call, {{"outputs/y", reference(call, DType::float64)}}).at("outputs/y").equal,
            count.rough);
}

TEST(IdentityTest, HonestSumsAreFarFromIt) {
  const Call call = question(true);
  const IdentityCount count = counted(call, {{"outputs/y", honest(call)}}).at("outputs/y");
  EXPECT_LT(static_cast<double>(count.equal), 0.7 * static_cast<double>(count.rough));
}

TEST(IdentityTest, ExactDataSayNothing) {
  const Call call = question(false);
  EXPECT_TRUE(counted(call, {{"outputs/y", reference(call, DType::float32)}}).empty());
}

TEST(IdentityTest, LowPrecisionSaysNothing) {
  Call call = question(true);
  EXPECT_TRUE(counted(call, {{"outputs/y", reference(call, DType::bfloat16)}}).empty());
  call.config["dtype"] = "bfloat16";
  for (auto& [name, tensor] : call.tensors) tensor = tensor.cast(DType::bfloat16);
  EXPECT_TRUE(counted(call, {{"outputs/y", reference(call, DType::float32)}}).empty());
}

TEST(IdentityTest, OneDifferenceIsNoProof) {
  EXPECT_TRUE((IdentityCount{512, 512}.proof()));
  EXPECT_FALSE((IdentityCount{511, 511}.proof()));
  EXPECT_FALSE((IdentityCount{100000, 99999}.proof()));
}

TEST(IdentityTest, SmallCasesProveItTogether) {
  IdentityEvidence evidence;
  std::vector<CaseReport> reports(4);
  for (std::size_t i = 0; i < 2; ++i)
    evidence.add(i, Component::mlp, {{"outputs/y", {300, 300}}, {"grads/x", {300, 100}}});
  evidence.add(2, Component::experts, {{"outputs/y", {300, 300}}});
  evidence.judge(reports, true);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(reports[i].verdict, Verdict::fail);
    EXPECT_TRUE(reports[i].finding.starts_with("identity: outputs/y over the 2 cases of mlp equals"))
        << reports[i].finding;
  }
  EXPECT_EQ(reports[2].verdict, Verdict::pass);
  evidence.judge(reports, false);
  EXPECT_EQ(reports[0].warnings.size(), 1u);
}

}  // namespace
}  // namespace moeref
