// Experts whose weights are codes, against the reference and its bounds: every format, read as codes and
// turned into numbers first.
#include "cuda_impl/adaptors/tests/judged_call.hpp"
#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/experts/tests/experts_call.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "moeref/activation_format.hpp"
#include "moeref/weight_format.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

class QuantizedExperts : public testing::TestWithParam<moeref::WeightFormat> {
 protected:
  void SetUp() override { MOEREF_SKIP(device_missing()); }
  static json call(std::int64_t tokens, int dim, int inter_dim, const char* dtype) {
    return with(experts_call(tokens, dim, inter_dim, dtype),
                {{"config", {{"weight_format", moeref::facts(GetParam()).name}}}});
  }
};

std::string name_of(const testing::TestParamInfo<moeref::WeightFormat>& info) {
  return std::string(moeref::facts(info.param).name);
}
INSTANTIATE_TEST_SUITE_P(Formats, QuantizedExperts, testing::ValuesIn(moeref::kQuantisedFormats), name_of);

/// The formats whose facts are so.
std::vector<moeref::WeightFormat> formats_where(bool (*is_so)(const moeref::WeightFormatFacts&)) {
  std::vector<moeref::WeightFormat> out;
  for (const moeref::WeightFormat format : moeref::kQuantisedFormats)
    if (is_so(moeref::facts(format))) out.push_back(format);
  return out;
}

class PowersOfTwoAsScales : public QuantizedExperts {};
INSTANTIATE_TEST_SUITE_P(Formats, PowersOfTwoAsScales,
                         testing::ValuesIn(formats_where([](const moeref::WeightFormatFacts& f) {
                           return f.scale == ScaleType::e8m0;
                         })),
                         name_of);
class CutBlocks : public QuantizedExperts {};
INSTANTIATE_TEST_SUITE_P(Formats, CutBlocks,
                         testing::ValuesIn(formats_where([](const moeref::WeightFormatFacts& f) {
                           return f.cut_blocks;
                         })),
                         name_of);
// One format of weights with blocks along both widths and one along K: the rows' formats are what differs.
class QuantisedRows : public QuantizedExperts {};
INSTANTIATE_TEST_SUITE_P(Formats, QuantisedRows,
                         testing::Values(moeref::WeightFormat::fp8_e4m3_block128,
                                         moeref::WeightFormat::mxfp8),
                         name_of);

// Rows per expert around the kernel's 8, 16 and 32; widths that leave lanes of the last step of K and of the
// last columns without work.
TEST_P(QuantizedExperts, CodesAreReadAtEveryTileEdge) {
  struct Extents {
    int tokens, dim, inter_dim;
  };
  for (const auto& [tokens, dim, inter_dim] :
       {Extents{1, 128, 128}, {14, 128, 256}, {17, 256, 384}, {31, 640, 128}, {80, 128, 128}})
    expect_agrees(call(tokens, dim, inter_dim, "bfloat16"), {ExpertsPath::few_rows});
  const moeref::WeightFormatFacts& format = moeref::facts(GetParam());
  const int block = format.cut_blocks ? 1 : static_cast<int>(format.block_k),
            step = std::max(block, moeref::is_packed(format.element) ? 32 : 16);
  for (const auto& [tokens, dim, inter_dim] :
       {Extents{9, step, step}, {9, 3 * step, 5 * step}, {9, 7 * step, 3 * step}})
    expect_agrees(call(tokens, dim, inter_dim, "bfloat16"), {ExpertsPath::few_rows});
}

/// The least width of whole blocks and of whole runs of 32 codes.
int whole_width(const moeref::WeightFormatFacts& format) {
  return format.cut_blocks ? 32 : std::max(32, static_cast<int>(format.block_k));
}

// Warps that turn codes into numbers beside the tensor cores write what dequantize() writes: results have the
// bits of products of numbers, at the edges of tiles, strips and stages.
TEST_P(QuantizedExperts, TensorCoresFromCodesGiveTheBitsOfNumbers) {
  MOEREF_SKIP(wgmma_missing());
  struct Extents {
    int tokens, dim, inter_dim;  // widths in whole ones
  };
  const int step = whole_width(moeref::facts(GetParam()));
  for (const auto& [tokens, dim, inter_dim] :
       {Extents{1, 1, 1}, {23, 3, 5}, {330, 2, 1}, {700, 5, 3}, {1300, 9, 10}, {150, 8, 16}})
    for (const char* activation : {"swiglu", "quick_geglu", "relu2"}) {
      const json descriptor = with(call(tokens, dim * step, inter_dim * step, "bfloat16"),
                                   {{"config",
                                     {{"expert_activation", activation},
                                      {"activation_limit", 1.5},
                                      {"expert_bias", tokens % 2 == 0},
                                      {"apply_router_weight_after_down", tokens % 3 == 0}}}});
      SCOPED_TRACE(descriptor.dump());
      const Call drawn = build_call(parse_case_spec(descriptor));
      CudaImplementation by_codes({ExpertsPath::wgmma_turns}), by_numbers({ExpertsPath::wgmma});
      const NamedTensors got = by_codes.run(drawn), want = by_numbers.run(drawn);
      ASSERT_FALSE(want.empty());
      for (const auto& [name, tensor] : want) EXPECT_TRUE(tensor == got.at(name)) << name;
    }
}

TEST_P(QuantizedExperts, TensorCoresFromCodes) {
  MOEREF_SKIP(wgmma_missing());
  const int step = whole_width(moeref::facts(GetParam()));
  for (const bool backward : {false, true})
    expect_agrees(with(call(37, 3 * step, step, "bfloat16"),
                       {{"backward", backward}, {"config", {{"expert_bias", true}}}}),
                  {ExpertsPath::wgmma_turns});
}

// Scales from the smallest that there is to those that, with a code's own power of two, bfloat16 does not
// hold.
TEST_P(PowersOfTwoAsScales, ScalesOfEverySize) {
  Call drawn = build_call(parse_case_spec(call(9, 128, 128, "bfloat16")));
  for (const auto& [up, down] : {std::pair{0, 127}, {1, 200}, {127, 0}, {136, 118}, {128, 129}, {150, 90}}) {
    SCOPED_TRACE(testing::Message() << "scales " << up << " and " << down);
    for (const auto& [name, scale] :
         {std::pair{"params/gate_and_up_projs_scales", up}, {"params/down_projs_scales", down}}) {
      Tensor& scales = drawn.tensors.at(name);
      for (std::int64_t i = 0; i < scales.size(); ++i) scales.set(i, scale);
    }
    for (const ExpertsPath path : {ExpertsPath::few_rows, ExpertsPath::wgmma_turns}) {
      if (is_wgmma(path) && !wgmma_missing().empty()) continue;
      CudaImplementation cuda({path});
      const CaseVerdict verdict = judge(drawn, cuda.run(drawn));
      EXPECT_NE(verdict.verdict, Verdict::fail) << word_of(path) << ": " << report(verdict);
    }
  }
}

TEST_P(QuantizedExperts, ActivationsAndBiasesAfterCodes) {
  for (const char* activation : {"swiglu", "swigluoai", "quick_geglu", "geglu", "relu2"})
    for (const bool after : {false, true})
      expect_agrees(with(call(21, 128, 128, "bfloat16"), {{"config",
                                                           {{"expert_activation", activation},
                                                            {"activation_limit", 1.5},
                                                            {"expert_bias", true},
                                                            {"apply_router_weight_after_down", after}}}}),
                    {ExpertsPath::few_rows});
}

TEST_P(QuantizedExperts, NumbersForProductsThatReadNoCodes) {
  for (const char* dtype : {"float32", "float16", "bfloat16"})
    for (const int tokens : {0, 1, 37})
      for (const bool backward : {false, true})
        expect_agrees(with(call(tokens, 128, 256, dtype),
                           {{"backward", backward}, {"config", {{"expert_bias", true}}}}),
                      {ExpertsPath::portable});
}

// Products of codes read X by token, where no weight of a slot is.
TEST_P(QuantizedExperts, WeightsOnTheInputOfNumbers) {
  expect_agrees(with(call(9, 128, 128, "bfloat16"),
                     {{"backward", true}, {"config", {{"router_weight_on_input", true}}}}));
}

TEST_P(QuantizedExperts, GradientsAfterProductsOfCodes) {
  expect_agrees(
      with(call(37, 128, 128, "bfloat16"), {{"backward", true}, {"config", {{"expert_bias", true}}}}),
      {ExpertsPath::few_rows});
}

// Both operands of products: x is known exactly, so that stages tell every code and scale of it.
TEST_P(QuantizedExperts, RowsAreQuantisedToo) {
  int drawn = static_cast<int>(GetParam());
  for (const moeref::ActivationFormat format : moeref::kQuantisedActivations) {
    const bool after = ++drawn % 2 == 0;
    expect_agrees(with(call(6, 128, 128, drawn % 3 == 0 ? "float32" : "bfloat16"),
                       {{"backward", true},
                        {"config",
                         {{"activation_format", moeref::facts(format).name},
                          {"expert_bias", drawn % 4 < 2},
                          {"apply_router_weight_after_down", after}}}}));
  }
}

TEST_P(QuantisedRows, OnRanks) {
  for (const bool after : {false, true})
    expect_agrees(with(call(13, 128, 128, "bfloat16"),
                       {{"backward", true},
                        {"call", {{"ep_size", after ? 2 : 3}, {"exchange", "all_to_all"}}},
                        {"config",
                         {{"activation_format", "fp8_e4m3_group128"},
                          {"router_weight_on_input", !after},
                          {"apply_router_weight_after_down", after}}}}));
}

TEST_P(CutBlocks, CutGroupsAndOtherActivationsOfQuantisedRows) {
  for (const char* activation : {"quick_geglu", "relu2", "gelu", "swigluoai"})
    for (const char* format : {"fp8_e4m3_group128", "fp8_e4m3_group128_ue8m0"})
      expect_agrees(with(call(7, 200, 77, "float16"), {{"backward", true},
                                                       {"config",
                                                        {{"activation_format", format},
                                                         {"activation_limit", 1.5},
                                                         {"expert_activation", activation},
                                                         {"expert_bias", true}}}}));
}

// Float32 sums are within the bound of narrower ones.
TEST_P(CutBlocks, OtherAccumulatorOfQuantisedRows) {
  expect_agrees(
      with(call(7, 200, 140, "float32"),
           {{"backward", true},
            {"config", {{"activation_format", "fp8_e4m3_group128"}, {"accumulator", "e8m13_promoted128"}}}}));
}

TEST_P(QuantizedExperts, SameBitsAgain) {
  expect_repeatable(build_call(parse_case_spec(call(33, 128, 256, "bfloat16"))));
}

// Codes stay codes while experts have few rows, so that no memory for numbers is asked for.
TEST_P(QuantizedExperts, NoMemoryForNumbersWhereCodesAreRead) {
  ExpertsConfig c{64, 2048, 768, 128, 8};
  const std::size_t plain = forward_workspace_bytes(c);
  c.weight_format = static_cast<WeightFormat>(GetParam());
  EXPECT_EQ(selected_path(c), ExpertsPath::few_rows);
  EXPECT_EQ(forward_workspace_bytes(c), plain);
  c.tokens = 1 << 20;
  EXPECT_NE(selected_path(c), ExpertsPath::few_rows);
  EXPECT_GT(forward_workspace_bytes(c), std::size_t{128} * 2048 * 768 * 3 * 2);
}

}  // namespace
}  // namespace moeref::cuda::test
