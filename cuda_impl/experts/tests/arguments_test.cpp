// Impossible arguments are exceptions that name the field; these need no device.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "cuda_impl/permutation/tile_split.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/mlp.hpp"
#include "moeref/cuda/moe.hpp"

namespace moeref::cuda::test {
namespace {

void expect_names(ExpertsConfig config, const char* field) {
  try {
    saved_bytes(config);
    ADD_FAILURE() << "no error for " << field;
  } catch (const ArgumentError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
  }
}

TEST(ExpertsArguments, ErrorsNameTheField) {
  expect_names({-1, 64, 64, 4, 2}, "tokens");
  expect_names({1 << 30, 64, 64, 4, 2}, "tokens");
  expect_names({8, 0, 64, 4, 2}, "dim");
  expect_names({8, 64, 0, 4, 2}, "inter_dim");
  expect_names({8, 64, 64, 1025, 2}, "experts");
  expect_names({8, 64, 64, 4, 0}, "slots");
}

TEST(ExpertsArguments, WgmmaNeedsMultiplesOfEightAndBfloat16) {
  ExpertsConfig c{8, 60, 64, 4, 2};
  c.path = ExpertsPath::wgmma;
  expect_names(c, "dim");
  c.dim = 64, c.inter_dim = 4, c.path = ExpertsPath::wgmma_clusters;
  expect_names(c, "inter_dim");
  c.inter_dim = 64, c.dtype = DataType::float32;
  expect_names(c, "dtype");
}

// The layer keeps X (the caller's), H, each slot's id, weight and two rows of int, and little else.
TEST(LayerArguments, LittleIsKeptForBackward) {
  // Mixtral 8x7B, Qwen3 30B, DeepSeek V3, gpt-oss 120B and OLMoE.
  const struct {
    const char* name;
    int tokens, dim, inter_dim, experts, slots;
  } shapes[] = {{"mixtral", 8192, 4096, 14336, 8, 2},
                {"qwen3_30b", 16384, 2048, 768, 128, 8},
                {"dsv3", 8192, 7168, 2048, 256, 8},
                {"gpt_oss", 8192, 2880, 2880, 128, 4},
                {"olmoe", 16384, 2048, 1024, 64, 8}};
  for (const auto& s : shapes) {
    LayerConfig c{};
    c.gate = {s.tokens, s.dim, s.experts, s.slots};
    c.experts = {s.tokens, s.dim, s.inter_dim, s.experts, s.slots};
    const double x = 2.0 * s.tokens * s.dim, rows = 1.0 * s.tokens * s.slots, h = rows * 2 * s.inter_dim * 2;
    EXPECT_LE((x + static_cast<double>(layer_saved_bytes(c))) / (x + h + 16 * rows), 1.05) << s.name;
  }
}

// What the choice of the kernels comes to, from capability, type and widths alone.
TEST(ExpertsArguments, PathFollowsTheTable) {
  using enum ExpertsPath;
  const auto path = [](int major, int minor, DataType type, int dim, int inter_dim,
                       ExpertsPath wanted = automatic, std::int64_t rows = 8 * 256) {
    return choose_path({major, minor, type, dim, inter_dim, rows, 8}, wanted);
  };
  constexpr DataType bf16 = DataType::bfloat16, fp32 = DataType::float32;
  EXPECT_EQ(path(9, 0, bf16, 4096, 14336), wgmma_clusters);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768), wgmma);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768, automatic, 8 * 640), wgmma_turns);
  EXPECT_EQ(path(9, 0, bf16, 4096, 14336, automatic, 8 * 640 - 1), wgmma_clusters);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768, wgmma_turns), wgmma_turns);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768, wgmma_clusters), wgmma_clusters);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768, portable), portable);
  EXPECT_EQ(path(9, 0, bf16, 2044, 768), portable);
  EXPECT_EQ(path(9, 0, fp32, 2048, 768), wgmma_planes);
  EXPECT_EQ(path(9, 0, fp32, 2047, 33), wgmma_planes);
  EXPECT_EQ(path(9, 0, fp32, 2048, 31), portable);
  EXPECT_EQ(path(9, 0, fp32, 2048, 768, portable), portable);
  EXPECT_EQ(path(9, 0, bf16, 2048, 768, wgmma_planes), automatic);
  EXPECT_EQ(path(8, 0, fp32, 2048, 768), portable);
  EXPECT_EQ(path(8, 0, bf16, 2048, 768), portable);
  EXPECT_EQ(path(12, 0, bf16, 2048, 768), portable);
  EXPECT_EQ(path(8, 0, bf16, 2048, 768, wgmma), automatic);  // none serves
  EXPECT_EQ(path(7, 5, fp32, 2048, 768), automatic);
}

TEST(ExpertsArguments, FewRowsStreamWeights) {
  using enum ExpertsPath;
  const auto path = [](std::int64_t rows, int dim, WeightFormat format, DataType type = DataType::bfloat16,
                       ExpertsPath wanted = automatic) {
    return choose_path({9, 0, type, dim, dim, rows, 128, format}, wanted);
  };
  EXPECT_EQ(path(64, 1024, WeightFormat::none), few_rows);
  EXPECT_EQ(path(65, 1024, WeightFormat::none), wgmma);
  EXPECT_EQ(path(128, 1024, WeightFormat::none), wgmma);
  EXPECT_EQ(path(256, 4096, WeightFormat::none), few_rows);
  EXPECT_EQ(path(257, 4096, WeightFormat::none), wgmma_clusters);
  EXPECT_EQ(path(8, 1020, WeightFormat::none), portable);
  EXPECT_EQ(path(8, 1024, WeightFormat::none, DataType::float32), wgmma_planes);
  EXPECT_EQ(path(8 * 128, 1024, WeightFormat::mxfp4), few_rows);
  EXPECT_EQ(path(8 * 128 + 1, 1024, WeightFormat::mxfp4), wgmma_turns);
  EXPECT_EQ(path(8 * 128, 1024, WeightFormat::mxfp8), few_rows);
  EXPECT_EQ(path(8 * 128 + 1, 1024, WeightFormat::mxfp8), wgmma_turns);
  EXPECT_EQ(path(512 * 128, 4096, WeightFormat::nvfp4), wgmma_turns);
  EXPECT_EQ(path(512 * 128 + 1, 4096, WeightFormat::nvfp4), wgmma_clusters);  // of numbers
  EXPECT_EQ(path(48 * 128, 1040, WeightFormat::mxfp8), few_rows);             // no runs of 32 codes
  EXPECT_EQ(path(48 * 128 + 1, 1040, WeightFormat::mxfp8), wgmma);
  EXPECT_EQ(path(8, 1040, WeightFormat::mxfp4), wgmma);  // lanes of 32 codes
  EXPECT_EQ(path(8, 1040, WeightFormat::mxfp8), few_rows);
  EXPECT_EQ(path(8, 1024, WeightFormat::mxfp4, DataType::float16), portable);
  EXPECT_EQ(path(1 << 20, 1024, WeightFormat::none, DataType::float16, few_rows), few_rows);
}

TEST(ExpertsArguments, CodesByCodesWantTheAccumulatorOfTensorCores) {
  using enum ExpertsPath;
  const auto path = [](Accumulator accumulator, int dim = 128, DataType type = DataType::bfloat16,
                       int major = 9) {
    ProductDemand d{major, 0, type, dim, 192};
    d.format = WeightFormat::fp8_e4m3_block128, d.quantises_rows = true, d.accumulator = accumulator;
    return choose_path(d, automatic);
  };
  using enum Accumulator;
  EXPECT_EQ(path(e8m13_promoted128), wgmma_e4m3);
  EXPECT_EQ(path(float32), portable);
  EXPECT_EQ(path(e8m13_promoted128, 136), portable);
  EXPECT_EQ(path(e8m13_promoted128, 128, DataType::float32), wgmma_planes);
  EXPECT_EQ(path(e8m13_promoted128, 128, DataType::bfloat16, 8), portable);

  ExpertsConfig c{1, 128, 192, 4, 2};
  c.accumulator = e8m13_promoted128;
  EXPECT_THROW(forward_workspace_bytes(c), ArgumentError);
  c.weight_format = WeightFormat::fp8_e4m3_block128,
  c.activation_format = ActivationFormat::fp8_e4m3_group128;
  EXPECT_NO_THROW(forward_workspace_bytes(c));
  c.path = wgmma_e4m3;
  EXPECT_NO_THROW(forward_workspace_bytes(c));
  c.accumulator = float32;
  EXPECT_THROW(forward_workspace_bytes(c), ArgumentError);
}

TEST(ExpertsArguments, FewRowsSayWhatTheyWant) {
  ExpertsConfig c{1, 20, 24, 4, 2};
  c.path = ExpertsPath::few_rows;
  EXPECT_THROW(forward_workspace_bytes(c), ArgumentError);
  c.dim = 24;
  EXPECT_NO_THROW(forward_workspace_bytes(c));
  c.dtype = DataType::float32;
  EXPECT_THROW(forward_workspace_bytes(c), ArgumentError);
}

TEST(ExpertsArguments, EveryPathHasTheProductsOfWhatItServes) {
  for (const ProductKind& kind : kProductKinds) {
    ProductDemand of_codes{9, 0, DataType::bfloat16, 64, 64};
    of_codes.quantises_rows = true, of_codes.accumulator = Accumulator::e8m13_promoted128;
    const auto serves = [&](DataType type) {
      of_codes.dtype = type;
      return kind.serves({9, 0, type, 64, 64}) || kind.serves(of_codes);
    };
    EXPECT_EQ(kind.float32 != nullptr, serves(DataType::float32)) << kind.name;
    EXPECT_EQ(kind.bfloat16 != nullptr, serves(DataType::bfloat16)) << kind.name;
    EXPECT_EQ(kind.float16 != nullptr, serves(DataType::float16)) << kind.name;
  }
}

// Every row lies in exactly one tile, none is larger than allowed, and a cluster's halves are steps of 16.
TEST(ExpertsArguments, TilesCoverTheRows) {
  for (const int most : {64, 160, 320})
    for (int rows = 0; rows < 2000; ++rows) {
      const int size = tile_size(rows, most), count = tile_count(rows, most);
      ASSERT_EQ(size % 16, 0) << rows << " at " << most;
      ASSERT_LE(size, most) << rows << " at " << most;
      ASSERT_GE(size * count, rows) << rows << " at " << most;
      ASSERT_LT(size * (count - 1), std::max(rows, 1)) << rows << " at " << most;
      ASSERT_LE(count, rows / 16 + 1) << rows << " at " << most;
      ASSERT_LE(half_tile(size), most > kBlockRows ? kBlockRows : most) << rows << " at " << most;
    }
}

TEST(ExpertsArguments, SavedIsHAndMetadata) {
  const ExpertsConfig config{8192, 2048, 768, 128, 8};
  const double h = 2.0 * 8192 * 8 * 2 * 768, x = 2.0 * 8192 * 2048;
  EXPECT_LE(x + static_cast<double>(saved_bytes(config)), 1.05 * (x + h));
}

/// An address that nothing is read from: the arguments are refused before.
char* address(std::size_t mebibytes) { return reinterpret_cast<char*>(mebibytes << 20); }

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "none";
}

TEST(Aliasing, OfExpertsIsRefused) {
  const ExpertsConfig c{8, 64, 64, 4, 2};
  const ExpertsWeights w{address(100), address(101), nullptr, nullptr};
  const ExpertsInput in{address(1), nullptr, nullptr, nullptr};
  const auto forward = [&](void* output, void* saved, void* workspace) {
    return refusal([&] { experts_forward(c, w, in, output, saved, workspace, nullptr); });
  };
  EXPECT_EQ(forward(address(1), address(20), address(40)), "output overlaps x: want them apart");
  EXPECT_EQ(forward(address(1) + 16, address(20), address(40)), "output overlaps x: want them apart");
  EXPECT_EQ(forward(address(2), address(20), address(20)), "saved overlaps workspace: want them apart");
  EXPECT_EQ(forward(address(2), nullptr, address(1) - 256), "workspace overlaps x: want them apart");
  const auto backward = [&](const void* d_output, void* d_x) {
    return refusal([&] {
      experts_backward(c, w, in, d_output, address(20),
                       {d_x, nullptr, address(3), address(4), nullptr, nullptr}, address(40), nullptr);
    });
  };
  EXPECT_EQ(backward(address(2), address(2)), "the gradient of x overlaps d_output: want them apart");
  EXPECT_EQ(backward(address(2), address(1)), "the gradient of x overlaps x: want them apart");
  EXPECT_EQ(backward(address(2), address(20)), "the gradient of x overlaps saved: want them apart");
}

TEST(Aliasing, OfMlpAndLayerIsRefused) {
  const MLPConfig mlp{8, 64, 64};
  const MLPWeights w{address(100), address(101), address(102)};
  Blas* const none = nullptr;  // refused before it is needed
  EXPECT_EQ(refusal([&] {
              mlp_forward(mlp, w, {address(1)}, address(1), false, nullptr, address(40), *none, nullptr);
            }),
            "y overlaps x: want them apart");
  MLPGradients d{address(2)};
  EXPECT_EQ(refusal([&] {
              mlp_backward(mlp, w, {address(1)}, address(2), address(20), d, address(40), *none, nullptr);
            }),
            "the gradient of x overlaps dy: want them apart");
  LayerConfig c{};
  c.gate = {8, 64, 4, 2};
  c.experts = {8, 64, 64, 4, 2};
  EXPECT_EQ(refusal([&] {
              layer_forward(c, {}, {address(1)}, {address(1)}, nullptr, address(40), *none, nullptr);
            }),
            "y overlaps x: want them apart");
  LayerGradients layer{address(2)};
  EXPECT_EQ(refusal([&] {
              layer_backward(c, {}, {address(1)}, address(2), address(20), layer, address(40), *none,
                             nullptr);
            }),
            "the gradient of x overlaps dy: want them apart");
}

}  // namespace
}  // namespace moeref::cuda::test
