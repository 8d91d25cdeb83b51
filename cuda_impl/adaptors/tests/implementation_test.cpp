// What the CUDA implementation declines and why, and that writes outside an array are noticed.
#include "cuda_impl/adaptors/cuda_implementation.hpp"

#include "cuda_impl/adaptors/tests/judged_call.hpp"
#include "moeref/cuda/error.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

json mlp(const char* dtype) {
  return {{"case", "mlp"},
          {"component", "mlp"},
          {"tokens", {3}},
          {"config", {{"dim", 4}, {"inter_dim", 6}, {"dtype", dtype}}}};
}

TEST(Implementation, DeclinesWithoutADevice) {
  const auto reason = CudaImplementation().unsupported(build_call(parse_case_spec(mlp("float32"))));
  if (device_missing().empty())
    EXPECT_FALSE(reason) << *reason;
  else
    EXPECT_TRUE(reason && reason->find("CUDA device") != std::string::npos);
}

TEST(Implementation, DeclinesTypesAndRanksByName) {
  MOEREF_NEEDS_DEVICE();
  const CudaImplementation cuda;
  const auto type = cuda.unsupported(build_call(parse_case_spec(mlp("float64"))));
  ASSERT_TRUE(type);
  EXPECT_EQ(*type, "inputs/x is float64: the CUDA implementation computes in float32, bfloat16 and float16");
  const json moe = {{"case", "moe"},
                    {"component", "moe"},
                    {"tokens", {1, 4}},
                    {"call", {{"ep_size", 128}}},
                    {"config",
                     {{"n_routed_experts", 128},
                      {"n_shared_experts", 0},
                      {"n_activated_experts", 2},
                      {"n_expert_groups", 1},
                      {"n_limited_groups", 1},
                      {"train_gate", true},
                      {"gate_bias_update_factor", 0.0},
                      {"aux_loss_coeff", 0.0},
                      {"score_func", "softmax"},
                      {"route_scale", 1.0},
                      {"dim", 8},
                      {"inter_dim", 8},
                      {"moe_inter_dim", 8},
                      {"norm_topk_prob", false},
                      {"dtype", "float32"}}}};
  const auto reason = cuda.unsupported(build_call(parse_case_spec(moe)));
  ASSERT_TRUE(reason);
  EXPECT_EQ(*reason, "128 ranks: the CUDA implementation runs 64 at most");
}

/// What the kernels do not have is never left out in silence: of all conventions one on several ranks.
TEST(Implementation, DeclinesSequencesOnSeveralRanks) {
  MOEREF_SKIP(device_missing());
  for (const std::string_view rule : all_conventions())
    EXPECT_NE(std::ranges::find(kCudaConventions, rule), kCudaConventions.end()) << rule;
  MoEConfig c;
  c.n_routed_experts = c.dim = c.inter_dim = c.moe_inter_dim = 4;
  c.n_activated_experts = 2;
  c.aux_loss_sequences = 2, c.aux_loss_coeff = 0.1;
  CudaImplementation cuda;
  const auto refusal = cuda.unsupported({Component::gate, to_json(c), {{"cp_size", 2}}, {}, false});
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->find("aux_loss_sequences is 2 on several ranks: "), 0u) << *refusal;
}

/// As of an allocation that failed and that the application did without.
class AnErrorFromBefore : public testing::TestWithParam<Component> {};
INSTANTIATE_TEST_SUITE_P(Components, AnErrorFromBefore,
                         testing::Values(Component::gate, Component::aux_loss, Component::bias_update,
                                         Component::fake_balanced_gate, Component::mlp, Component::experts,
                                         Component::moe),
                         [](const auto& info) { return std::string(name(info.param)); });
TEST_P(AnErrorFromBefore, IsNotTheCalls) {
  MOEREF_NEEDS_DEVICE();
  Judged total;
  for (std::uint64_t seed = 0; seed < 40 && total.calls < 4; ++seed) {
    leave_an_error();
    judge_call(random_call(GetParam(), DType::float32, seed, Numbers::ordinary, Rules::documented),
               std::to_string(seed), total);
  }
  EXPECT_EQ(total.calls, 4);
}

TEST(DeviceContext, NoticesWritesOutsideAnArray) {
  MOEREF_NEEDS_DEVICE();
  for (const int at : {-1, 40}) {
    DeviceContext device;
    const DeviceTensor ten = device.output(DataType::float32, {10});
    EXPECT_NO_THROW(device.check_guards());
    check(cudaMemsetAsync(ten.as<char>() + at, 0, 1, device.stream()), "cudaMemsetAsync");
    EXPECT_THROW(device.check_guards(), CudaError) << at;
  }
}

TEST(DeviceContext, KeepsValuesAndPoisonsOutputs) {
  MOEREF_NEEDS_DEVICE();
  DeviceContext device;
  const std::vector<double> values{1.0, -2.5, 1.00390625};
  const Tensor tensor = Tensor::of({3}, std::span<const double>(values));
  const Tensor wide = device.download(device.upload(tensor, DataType::float32)),
               narrow = device.download(device.upload(tensor, DataType::bfloat16));
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(wide[i], values[static_cast<std::size_t>(i)]);
    EXPECT_EQ(narrow[i], round_to(DType::bfloat16, values[static_cast<std::size_t>(i)]));
    EXPECT_TRUE(std::isnan(device.download(device.output(DataType::bfloat16, {3}))[i]));
  }
  const std::vector<std::int64_t> ids{3, -1};
  EXPECT_EQ(
      device.download(device.upload(Tensor::of({2}, std::span<const std::int64_t>(ids)), DataType::int32)),
      Tensor::of({2}, std::span<const std::int64_t>(ids)));
}

}  // namespace
}  // namespace moeref::cuda::test
