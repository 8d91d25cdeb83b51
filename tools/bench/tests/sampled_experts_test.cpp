#include "tools/bench/cuda/sampled_experts.hpp"

#include <gtest/gtest.h>

#include "cuda_impl/experts/tests/device_experts.hpp"

namespace moeref::cuda::bench {
namespace {

constexpr Shape kShape = {"small", 40, 24, 16, 8, 3};

/// Both passes, on tokens whose experts are distinct.
struct Passes {
  Passes() : experts(host) { experts.forward(), experts.backward(); }
  TimedExperts timed() const {
    const test::DeviceExperts& e = experts;
    return {kShape,          host.config.dtype, host.ids,         e.weights.data(),
            e.x.data(),      e.d_output.data(), e.gate_up.data(), e.down.data(),
            e.output.data(), e.dx.data(),       e.dweights.data()};
  }

  static test::HostCase some_case() {
    test::HostCase c = test::make_case(
        {kShape.tokens, kShape.dim, kShape.inter_dim, kShape.experts, kShape.slots}, false, 5);
    for (std::size_t i = 0; i < c.ids.size(); ++i) c.ids[i] = static_cast<int>((i * 3 + i / 3) % 8);
    return c;
  }
  const test::HostCase host = some_case();
  test::DeviceExperts experts;
};

TEST(SampledExperts, AreWithinTheirBounds) {
  const Passes passes;
  const double ratio = largest_ratio(passes.timed());
  EXPECT_GT(ratio, 0.0);
  EXPECT_LE(ratio, 1.0);
}

TEST(SampledExperts, AWrongRowIsNamed) {
  Passes passes;
  const auto failure = [](const TimedExperts& timed) -> std::string {
    try {
      largest_ratio(timed);
    } catch (const CudaError& error) {
      return error.what();
    }
    return "";
  };
  TimedExperts output = passes.timed(), d_x = passes.timed(), d_weights = passes.timed();
  output.output = output.x, d_x.d_x = d_x.x, d_weights.d_weights = d_weights.weights;
  EXPECT_EQ(failure(output).find("--verify: outputs/y["), 0u) << failure(output);
  EXPECT_EQ(failure(d_x).find("--verify: grads/x["), 0u) << failure(d_x);
  EXPECT_EQ(failure(d_weights).find("--verify: grads/weights["), 0u) << failure(d_weights);
  passes.experts.output.poison(0xff);
  EXPECT_EQ(failure(passes.timed()).find("--verify: outputs/y["), 0u) << "NaN passed";
}

}  // namespace
}  // namespace moeref::cuda::bench
