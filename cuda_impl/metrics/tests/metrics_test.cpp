// Load-balance metrics against the reference.
#include "moeref/cuda/metrics.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"

namespace moeref::cuda::test {
namespace {

Call metrics_call(std::int64_t layers, std::int64_t experts, std::uint64_t seed, int zeros_of_ten) {
  Call call{Component::metrics,
            to_json(gate_only(experts, 1, 8, DType::float32)),
            nlohmann::json::object(),
            {},
            false};
  Tensor load(DType::int64, {layers, experts});
  std::mt19937_64 bits(seed);
  for (std::int64_t i = 0; i < load.size(); ++i)
    load.set(i, static_cast<int>(bits() % 10) < zeros_of_ten ? 0.0 : static_cast<double>(bits() % 100000));
  call.tensors["inputs/expert_load"] = load;
  return call;
}

TEST(Metrics, OfRandomLoads) {
  MOEREF_NEEDS_DEVICE();
  std::uint64_t seed = 0;
  for (const auto& [layers, experts] : {std::array<std::int64_t, 2>{1, 1},
                                        {1, 2},
                                        {2, 1},
                                        {3, 1},
                                        {1, 5},
                                        {4, 8},
                                        {5, 7},
                                        {61, 256},
                                        {28, 128},
                                        {7, 1024}})
    for (const int zeros : {0, 4, 9}) {
      if (layers * experts > 1000 && zeros != 4) continue;
      const Call call = metrics_call(layers, experts, ++seed, zeros);
      expect_passes(call, std::to_string(layers) + " layers of " + std::to_string(experts));
      expect_repeatable(call);
    }
}

TEST(Metrics, OfNoLoad) {
  MOEREF_NEEDS_DEVICE();
  expect_passes(metrics_call(3, 8, 1, 10), "all zero");
}

TEST(Metrics, AnErrorFromBeforeIsNotTheCalls) {
  MOEREF_NEEDS_DEVICE();
  leave_an_error();
  expect_passes(metrics_call(3, 8, 1, 4), "after a failed allocation");
}

TEST(Metrics, ErrorsNameTheField) {
  EXPECT_THROW(load_balance_metrics(-1, 4, nullptr, {}, nullptr), ArgumentError);
  EXPECT_THROW(load_balance_metrics(1, 0, nullptr, {}, nullptr), ArgumentError);
}

}  // namespace
}  // namespace moeref::cuda::test
