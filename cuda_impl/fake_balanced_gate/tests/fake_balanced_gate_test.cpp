// The balanced gate: in turn, with the documented system's draws, and with draws of our own stream, whose ids
// are exact.
#include <numeric>

#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"
#include "moeref/cuda/fake_balanced_gate.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/arithmetic/torch_generator.hpp"
#include "reference_cpu/components/fake_balanced_gate.hpp"

namespace moeref::cuda::test {
namespace {

Call fake_call(std::int64_t experts, std::int64_t k, std::int64_t skip, DType dtype, std::int64_t tokens,
               double noise = 0.0) {
  nlohmann::json options{{"skip_first_n_experts", skip}, {"noise", noise}};
  return filled_call(Component::fake_balanced_gate, gate_only(experts, k, 8, dtype), tokens, 3, false,
                     options);
}

TEST(FakeBalancedGate, InTurn) {
  MOEREF_NEEDS_DEVICE();
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    expect_passes(fake_call(8, 2, 0, dtype, 50), "8 experts");
    expect_passes(fake_call(10, 3, 4, dtype, 77), "first 4 skipped");
    expect_passes(fake_call(6, 5, 4, dtype, 9), "more slots than experts left");
    expect_passes(fake_call(1024, 64, 1000, dtype, 300), "1024 experts");
    expect_passes(fake_call(8, 2, 0, dtype, 0), "no token");
  }
}

struct Result {
  std::vector<int> ids;
  std::vector<float> weights;
};
Result run(const FakeGateConfig& c, const void* x, const FakeGateDraws& draws) {
  DeviceArray<int> ids(c.tokens * c.slots);
  DeviceArray<float> weights(c.tokens * c.slots);
  fake_balanced_gate(c, x, draws, ids.data(), nullptr, weights.data(), nullptr);
  check(cudaDeviceSynchronize(), "fake_balanced_gate");
  return {ids.get(), weights.get()};
}

std::vector<float> floats(const Tensor& t) { return {t.as<float>().begin(), t.as<float>().end()}; }

// The reference's own draws, in the documented order, give its ids exactly and its weights within their
// bounds.
TEST(FakeBalancedGate, DrawsOfTheDocumentedSystem) {
  MOEREF_NEEDS_DEVICE();
  for (const auto& [experts, k, skip, tokens] :
       {std::array<std::int64_t, 4>{16, 4, 0, 40}, {40, 8, 7, 200}, {8, 1, 0, 30}, {300, 64, 20, 60}}) {
    const Call call = fake_call(experts, k, skip, DType::float32, tokens, 0.3);
    const Evaluation want = evaluate(call);
    TorchGenerator generator(fake_balanced_gate_seed(call.tensors.at("inputs/x")));
    const std::int64_t available = experts - skip;
    const DeviceArray<float> r(floats(generator.uniform(DType::float32, {tokens, k}))),
        b(floats(generator.normal(DType::float32, {available}, 0.0, 1.0))),
        u(floats(generator.uniform(DType::float32, {tokens, available})));
    const Result got = run({tokens, 8, static_cast<int>(experts), static_cast<int>(k), static_cast<int>(skip),
                            0.3, DataType::float32},
                           nullptr, {r.data(), b.data(), u.data()});
    const BoundedTensor &ids = want.results.at("outputs/indices"),
                        &weights = want.results.at("outputs/weights");
    for (std::size_t i = 0; i < got.ids.size(); ++i) {
      EXPECT_EQ(got.ids[i], ids.value[i]) << i;
      EXPECT_LE(std::abs(got.weights[i] - weights.value[i]), weights.bound[i]) << i;
    }
  }
}

TEST(FakeBalancedGate, OurOwnStreamHasTheGeneratorsBits) {
  MOEREF_NEEDS_DEVICE();
  const int tokens = 70, experts = 50, k = 6, skip = 3, available = experts - skip;
  for (const float first : {0.25f, -1.5f, 3000.0f, 0.0f}) {
    std::vector<float> x(tokens * 8, 0.125f);
    x[0] = first;
    const DeviceArray<float> device_x(x);
    const FakeGateConfig c{tokens, 8, experts, k, skip, 0.5, DataType::float32};
    const Result got = run(c, device_x.data(), {});
    const std::uint64_t seed = fake_balanced_gate_seed(
        Tensor::of({4}, std::vector<double>(x.begin(), x.begin() + 4)).cast(DType::float32));
    const CounterGenerator scores(seed, "fake_balanced_gate/scores"), bias(seed, "fake_balanced_gate/bias"),
        weights(seed, "fake_balanced_gate/weights");
    for (int t = 0; t < tokens; ++t) {
      std::vector<float> score(available);
      for (int i = 0; i < available; ++i) {
        const float b = static_cast<float>(bias.normal(i)) * 0.5f * 0.1f;
        score[i] = static_cast<float>(scores.uniform(static_cast<std::uint64_t>(t) * available + i)) + b;
      }
      std::vector<int> order(available);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[a] > score[b]; });
      float sum = 0.0f, r[k];
      for (int j = 0; j < k; ++j) sum += r[j] = static_cast<float>(weights.uniform(t * k + j));
      for (int j = 0; j < k; ++j) {
        EXPECT_EQ(got.ids[t * k + j], order[j] + skip) << "token " << t << " x " << first;
        EXPECT_NEAR(got.weights[t * k + j], 0.5f / k + 0.5f * r[j] / sum, 1e-6f);
      }
    }
  }
}

TEST(FakeBalancedGate, ErrorsNameTheField) {
  const auto expect_names = [](const FakeGateConfig& c, const char* field) {
    try {
      fake_balanced_gate(c, nullptr, {}, nullptr, nullptr, nullptr, nullptr);
      ADD_FAILURE() << "no error for " << field;
    } catch (const ArgumentError& error) {
      EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
    }
  };
  expect_names({-1, 8, 8, 2}, "tokens");
  expect_names({4, 8, 8, 0}, "slots");
  expect_names({4, 8, 8, 2, 8}, "skip");
  expect_names({4, 8, 8, 2, 0, 1.5}, "noise");
  expect_names({4, 8, 8, 5, 4, 0.5}, "slots");
  expect_names({4, 8, 0, 1}, "experts");
}

}  // namespace
}  // namespace moeref::cuda::test
