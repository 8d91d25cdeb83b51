// fake_balanced_gate.hpp: the documented system's ids and weights, the seed rule, and the errors.
#include "reference_cpu/components/fake_balanced_gate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "moeref/error.hpp"

namespace moeref {
namespace {

MoEConfig config_of(std::int64_t experts, std::int64_t k) {
  MoEConfig c;
  c.n_routed_experts = experts;
  c.n_activated_experts = k;
  c.dim = 32;
  return c;
}

/// [tokens, 32]: only the first four values and the number of rows matter.
Tensor input(DType dtype, std::int64_t tokens, std::initializer_list<double> first) {
  Tensor x(dtype, {tokens, 32});
  std::int64_t i = 0;
  for (const double value : first) x.set(i++, value);
  return x;
}

std::vector<std::int64_t> ids_of(const FakeRouting& routing, std::int64_t token) {
  const auto all = routing.indices.as<std::int64_t>();
  const std::int64_t k = routing.indices.extent(1);
  return {all.begin() + token * k, all.begin() + (token + 1) * k};
}

struct Recorded {
  DType dtype;
  std::int64_t k, skip;
  double noise;
  std::initializer_list<double> x;
  std::vector<std::vector<std::int64_t>> ids;  ///< of tokens 0, 1, 2 and 32
  std::vector<std::vector<double>> weights;    ///< of tokens 0 and 32
};

// FakeBalancedGate with 8 experts on 33 tokens under PyTorch 2.11 on a CPU.
const Recorded kRecorded[] = {
    {DType::float32,
     3,
     0,
     0.5,
     {-0x1.40960cp-2, -0x1.7b3614p+1, -0x1.420dp-2, -0x1.239ce8p-1},
     {{5, 1, 4}, {4, 6, 7}, {7, 2, 5}, {3, 1, 2}},
     {{0x1.7af62p-2, 0x1.db4714p-3, 0x1.976658p-2}, {0x1.95fa1cp-2, 0x1.24ef9p-2, 0x1.451654p-2}}},
    {DType::float32,
     2,
     2,
     0.3,
     {0x1.4f39dep+0, 0x1.0bea0ep-2, 0x1.b217a8p-1, 0x1.5be106p+0},
     {{6, 2}, {4, 3}, {3, 4}, {4, 7}},
     {{0x1.b4b83ep-2, 0x1.25a3e2p-1}, {0x1.fd92b4p-2, 0x1.0136a8p-1}}},
    {DType::bfloat16,
     4,
     0,
     0.4,
     {0x1.84p-1, -0x1.e4p-3, 0x1.4ap-1, 0x1.ep+0},
     {{7, 6, 2, 1}, {6, 5, 7, 3}, {7, 5, 1, 4}, {2, 6, 1, 5}},
     {{0x1.28p-2, 0x1.b8p-3, 0x1.f6p-3, 0x1p-2}, {0x1.82p-3, 0x1.1ep-2, 0x1.48p-2, 0x1.b2p-3}}},
};

TEST(FakeBalancedGate, NoiseGivesTheDocumentedSystemsRouting) {
  for (const Recorded& r : kRecorded) {
    const FakeRouting routing =
        fake_balanced_gate(input(r.dtype, 33, r.x), config_of(8, r.k), r.skip, r.noise);
    const std::int64_t tokens[] = {0, 1, 2, 32};
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(ids_of(routing, tokens[i]), r.ids[i]);
    const Bounded bounded = fake_balanced_weights(routing, r.k, r.dtype);
    for (std::int64_t j = 0; j < r.k; ++j)
      for (const std::int64_t token : {0, 1}) {
        const std::int64_t at = (token == 0 ? 0 : 32) * r.k + j;
        const double recorded = r.weights[static_cast<std::size_t>(token)][static_cast<std::size_t>(j)];
        const auto n = static_cast<std::size_t>(at);
        EXPECT_NEAR(recorded, routing.weights[n], 4.0 * unit_roundoff(r.dtype) * recorded);
        EXPECT_NEAR(recorded, bounded.value[n], bounded.error[n]);
        EXPECT_LT(bounded.error[n], 16.0 * unit_roundoff(r.dtype) * recorded);
      }
  }
}

TEST(FakeBalancedGate, WithoutNoiseIdsRunRound) {
  const FakeRouting routing = fake_balanced_gate(input(DType::bfloat16, 5, {}), config_of(7, 3), 2, 0.0);
  EXPECT_EQ(ids_of(routing, 0), (std::vector<std::int64_t>{2, 3, 4}));
  EXPECT_EQ(ids_of(routing, 1), (std::vector<std::int64_t>{5, 6, 2}));
  EXPECT_EQ(ids_of(routing, 4), (std::vector<std::int64_t>{4, 5, 6}));
  for (const double w : routing.weights) EXPECT_EQ(w, 1.0 / 3.0);
  EXPECT_TRUE(routing.uniforms.empty());
}

TEST(FakeBalancedGate, WithoutNoiseIdsMayRepeatInAToken) {
  EXPECT_EQ(ids_of(fake_balanced_gate(input(DType::float32, 1, {}), config_of(4, 3), 2, 0.0), 0),
            (std::vector<std::int64_t>{2, 3, 2}));
}

TEST(FakeBalancedGate, NoiseNeverRepeatsAnIdAndSkipsTheFirstExperts) {
  const FakeRouting routing = fake_balanced_gate(input(DType::float32, 200, {3.0}), config_of(8, 5), 3, 1.0);
  for (std::int64_t t = 0; t < 200; ++t) {
    const auto ids = ids_of(routing, t);
    EXPECT_EQ(std::set<std::int64_t>(ids.begin(), ids.end()), (std::set<std::int64_t>{3, 4, 5, 6, 7}));
  }
}

// int(1e6 * s) & 0x7fffffff, as Python computes it for integers of any size.
TEST(FakeBalancedGate, SeedIsTheLow31BitsOfATruncatedInteger) {
  const auto seed = [](std::initializer_list<double> first) {
    return fake_balanced_gate_seed(input(DType::float32, 1, first));
  };
  EXPECT_EQ(seed({}), 0u);
  EXPECT_EQ(seed({1.5}), 1500000u);
  EXPECT_EQ(seed({0x1p-21}), 0u);
  EXPECT_EQ(seed({-0x1p-21}), 0u);
  EXPECT_EQ(seed({-1.5}), 2145983648u);
  EXPECT_EQ(seed({4000.0}), 1852516352u);
  EXPECT_EQ(seed({1, 2, 4, 8, 16}), 15000000u);
  EXPECT_EQ(seed({0x1p100}), 0u);
  EXPECT_EQ(seed({0x1.8p40, -1.0}), 0u);
  EXPECT_EQ(seed({1e8, 1.0, -1e8, 1.0}), 1000000u);  // from the left: 1e8 + 1 is 1e8 in fp32
  Tensor two(DType::float64, {1, 2});
  two.set(0, 0.25);
  two.set(1, 0.5);
  EXPECT_EQ(fake_balanced_gate_seed(two), 750000u);
}

TEST(FakeBalancedGate, TakesNoTokensAndLeadingAxes) {
  const MoEConfig c = config_of(8, 2);
  EXPECT_EQ(fake_balanced_gate(Tensor(DType::float32, {0, 32}), c, 0, 0.5).indices.shape(), (Shape{0, 2}));
  EXPECT_EQ(fake_balanced_gate(Tensor(DType::float32, {2, 3, 32}), c, 0, 0.5).indices.shape(), (Shape{6, 2}));
}

TEST(FakeBalancedGate, NamesTheFieldThatIsWrong) {
  const auto message = [](const Tensor& x, std::int64_t skip, double noise) -> std::string {
    try {
      fake_balanced_gate(x, config_of(8, 4), skip, noise);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  };
  const Tensor x = input(DType::float32, 2, {1.0});
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message(x, 4, 0.5), "no error");
  EXPECT_EQ(message(x, 5, 0.0), "no error");
  EXPECT_NE(message(x, 5, 0.5).find("skip_first_n_experts is 5"), std::string::npos);
  EXPECT_NE(message(x, 8, 0.0).find("skip_first_n_experts is 8"), std::string::npos);
  EXPECT_NE(message(x, -1, 0.0).find("skip_first_n_experts is -1"), std::string::npos);
  EXPECT_NE(message(x, 0, 1.5).find("noise is 1.5"), std::string::npos);
  EXPECT_NE(message(x, 0, std::nan("")).find("noise is nan"), std::string::npos);
  EXPECT_NE(message(input(DType::float32, 2, {std::nan("")}), 0, 0.5).find("inputs/x"), std::string::npos);
  EXPECT_NE(message(input(DType::bfloat16, 2, {inf, -inf}), 0, 0.5).find("inputs/x"), std::string::npos);
  EXPECT_NE(message(Tensor(DType::int64, {2, 32}), 0, 0.5).find("inputs/x is int64"), std::string::npos);
  EXPECT_EQ(message(input(DType::float32, 2, {std::nan("")}), 0, 0.0), "no error");
}

}  // namespace
}  // namespace moeref
