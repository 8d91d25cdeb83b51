// Initialisation has the bits of the CPU reference, whole and in parts.
#include "moeref/cuda/init.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/components/init.hpp"

namespace moeref::cuda::test {
namespace {

MoEConfig whole_layer(DType dtype) {
  MoEConfig c = gate_only(6, 2, 40, dtype);
  c.moe_inter_dim = 24;
  c.router_bias = c.expert_bias = c.force_e_score_correction_bias = true;
  c.n_shared_experts = 2;
  c.shared_expert_gate = true;
  c.moe_latent_size = 16;
  return c;
}

TEST(Init, EveryParameterHasTheBitsOfTheReference) {
  MOEREF_NEEDS_DEVICE();
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1} << 63 | 12345}) {
      const Call call{Component::init,
                      to_json(whole_layer(dtype)),
                      {{"seed", seed}, {"init_std", 0.02}, {"fill_before", 7.5}},
                      {},
                      false};
      const NamedTensors want = init_weights(parse_moe_config(call.config), parse_call_options(call.options)),
                         got = CudaImplementation().run(call);
      ASSERT_EQ(got.size(), want.size());
      for (const auto& [name, tensor] : want) {
        ASSERT_TRUE(got.contains(name)) << name;
        std::int64_t different = 0, first = -1;
        for (std::int64_t i = 0; i < tensor.size(); ++i)
          if (tensor[i] != got.at(name)[i]) ++different, first = first < 0 ? i : first;
        EXPECT_TRUE(tensor == got.at(name))
            << name << ": " << different << " of " << tensor.size() << " differ, the first at " << first
            << ": " << (first < 0 ? 0 : got.at(name)[first]) << " for " << (first < 0 ? 0 : tensor[first]);
      }
      expect_passes(call, "init");
    }
}

TEST(Init, AnErrorFromBeforeIsNotTheCalls) {
  MOEREF_NEEDS_DEVICE();
  leave_an_error();
  DeviceArray<float> values(4);
  EXPECT_NO_THROW(init_normal(1, "gate.weight", 0.02, 0, 4, DataType::float32, values.data(), nullptr));
}

TEST(Init, PartsAreTheWhole) {
  MOEREF_NEEDS_DEVICE();
  constexpr std::int64_t count = 100001, far = (std::int64_t{1} << 40) + 1;
  for (const std::int64_t base : {std::int64_t{0}, far}) {
    DeviceArray<float> whole(count), parts(count);
    init_normal(42, "experts.down_projs", 0.5, base, count, DataType::float32, whole.data(), nullptr);
    for (std::int64_t first = 0, size = 1; first < count; first += size, size = size * 3 + 1)
      init_normal(42, "experts.down_projs", 0.5, base + first, std::min(size, count - first),
                  DataType::float32, parts.data() + first, nullptr);
    check(cudaDeviceSynchronize(), "init_normal");
    EXPECT_EQ(parts.get(), whole.get());
    const CounterGenerator generator(42, "init/experts.down_projs");
    const auto values = whole.get();
    for (std::int64_t i = 0; i < count; i += 97)
      EXPECT_EQ(values[i], static_cast<float>(0.5 * generator.normal(static_cast<std::uint64_t>(base + i))))
          << i;
  }
}

TEST(Init, ErrorsNameTheField) {
  EXPECT_THROW(init_normal(1, "gate.weight", 0.1, -1, 4, DataType::float32, nullptr, nullptr), ArgumentError);
  EXPECT_THROW(init_normal(1, "gate.weight", -0.1, 0, 4, DataType::float32, nullptr, nullptr), ArgumentError);
  EXPECT_THROW(init_normal(1, "gate.weight", 0.1, 0, -4, DataType::float32, nullptr, nullptr), ArgumentError);
  init_normal(1, "gate.weight", 0.1, 0, 0, DataType::float32, nullptr, nullptr);
}

}  // namespace
}  // namespace moeref::cuda::test
