// A pass of few tokens in one launch gives the bits of its steps in launches of their own: for numbers and
// codes, one and two blocks a multiprocessor, tiles of eight rows and more, and again and again.
#include "cuda_impl/experts/passes.hpp"
#include "cuda_impl/experts/tests/device_experts.hpp"
#include "cuda_impl/permutation/unpermute.hpp"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::test {
namespace {

ExpertsConfig config(std::int64_t tokens, int slots, int experts, int dim, int inter_dim) {
  ExpertsConfig c{tokens, dim, inter_dim, experts, slots};
  c.path = ExpertsPath::few_rows;
  return c;
}

/// Whether the pass is one launch; if so, that three of them have the bits of its steps.
bool is_the_same(const ExpertsConfig& c, const ExpertsWeights& weights, const ExpertsInput& in) {
  DeviceArray<char> work(forward_workspace_bytes(c));
  DeviceMatrix steps(c.dtype, static_cast<std::size_t>(c.tokens * c.dim)),
      whole = DeviceMatrix(c.dtype, steps.size());
  const ForwardPass pass(c, one_chunk(c), weights, in, nullptr, work.data());
  if (!pass.is_one_launch()) return false;
  pass.sort(nullptr);
  pass.multiply(0, nullptr);
  unpermute(c.dtype, pass.rows().rows, pass.rows().slot_row, c.tokens, c.slots, c.dim, steps.data(), nullptr);
  check(cudaDeviceSynchronize(), "the steps");
  for (int run = 0; run < 3; ++run) {
    work.poison(0xff), whole.poison(0xff);
    experts_forward(c, weights, in, whole.data(), nullptr, work.data(), nullptr);
    check(cudaDeviceSynchronize(), "experts_forward");
    EXPECT_EQ(whole.bits(), steps.bits()) << "run " << run;
  }
  return true;
}

void expect_same(const HostCase& host, const char* what) {
  SCOPED_TRACE(what);
  const DeviceExperts device(host);
  EXPECT_TRUE(is_the_same(host.config, device.parameters(), device.input()));
}

TEST(WholePass, OneTokenToEight) {
  MOEREF_NEEDS_DEVICE();
  for (const DataType type : {DataType::bfloat16, DataType::float16})
    for (const int tokens : {1, 3, 7, 8}) {
      ExpertsConfig c = config(tokens, 3, 9, 136, 8);
      c.dtype = type, c.apply_router_weight_after_down = tokens > 3;
      expect_same(make_case(c, tokens > 1, 40 + tokens), "one tile of the up product");
    }
}

// More tiles than two blocks of every multiprocessor: blocks draw many, and tiles wait for those of others.
TEST(WholePass, ManyTilesABlock) {
  MOEREF_NEEDS_DEVICE();
  expect_same(make_case(config(8, 8, 300, 72, 448), true, 51), "about 57 experts");
  HostCase one = make_case(config(8, 8, 40, 72, 520), true, 52);
  std::fill(one.ids.begin(), one.ids.end(), 39);  // 64 rows of one expert, eight at a time
  expect_same(one, "one expert");
}

TEST(WholePass, MaskedTokensAndUnroutedSlots) {
  MOEREF_NEEDS_DEVICE();
  HostCase c = make_case(config(6, 5, 4, 128, 8), true, 53);
  c.mask = {1, 0, 1, 1, 0, 1};
  c.ids[0] = -1, c.ids[1] = 4, c.ids[12] = c.ids[11];
  std::fill(c.ids.begin() + 15, c.ids.begin() + 20, -1);  // a token without experts
  expect_same(c, "some");
  c.mask.assign(6, 0);
  expect_same(c, "all masked");
}

TEST(WholePass, Activations) {
  MOEREF_NEEDS_DEVICE();
  for (const Activation a : {Activation::relu2, Activation::swigluoai, Activation::geglu}) {
    ExpertsConfig c = config(2, 2, 5, 64, 24);
    c.activation = a, c.activation_parameters = {1.702f, 7.0f};
    expect_same(make_case(c, true, 54), "an activation");
  }
}

/// Codes and scales of any bits that are finite numbers.
struct Codes {
  DeviceArray<char> codes, scales;
  DeviceArray<float> experts;

  Codes(WeightFormat format, std::size_t count, std::size_t scale_count, std::size_t expert_count)
      : codes(bytes(facts(format), count)),
        scales(scale_bytes(facts(format), scale_count)),
        experts(std::vector<float>(expert_count, 0.25f)) {}
  WeightScales all() const { return {scales.data(), experts.data()}; }

 private:
  static std::vector<char> bytes(const FormatFacts& f, std::size_t count) {
    std::mt19937 rng(7);
    std::vector<char> out(count * f.bits() / 8);
    for (char& c : out) c = static_cast<char>(rng() & (f.code == CodeKind::e4m3 ? 0xbf : 0xff));
    return out;
  }
  static std::vector<char> scale_bytes(const FormatFacts& f, std::size_t count) {
    std::vector<char> out;
    for (std::size_t i = 0; i < count; ++i) switch (f.scale) {
        case ScaleKind::float32:
          out.insert(out.end(), {0, 0, 0, static_cast<char>(0x3c + i % 2)});
          break;
        case ScaleKind::bfloat16:
          out.insert(out.end(), {static_cast<char>(i % 64), 0x3c});
          break;
        case ScaleKind::e8m0:
          out.push_back(static_cast<char>(120 + i % 4));
          break;
        case ScaleKind::e4m3:
          out.push_back(static_cast<char>(24 + i % 16));
          break;
      }
    return out;
  }
};

TEST(WholePass, Codes) {
  MOEREF_NEEDS_DEVICE();
  for (const WeightFormat format :
       {WeightFormat::fp8_e4m3_block128, WeightFormat::mxfp8, WeightFormat::mxfp4, WeightFormat::nvfp4,
        WeightFormat::int4_group32, WeightFormat::int4_group128})
    for (const int tokens : {1, 8}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(format) << " of " << tokens);
      ExpertsConfig c = config(tokens, 4, 12, 256, 384);
      c.weight_format = format;
      const HostCase host = make_case(config(tokens, 4, 12, 256, 384), false, 55);
      const DeviceExperts device(host);
      const auto matrix = [&](std::size_t k, std::size_t n) {
        const FormatFacts f = facts(format);
        return Codes(format, 12 * k * n,
                     12 * ((n + f.block_n - 1) / f.block_n) * ((k + f.block_k - 1) / f.block_k), 12);
      };
      const Codes up = matrix(256, 768), down = matrix(384, 256);
      const ExpertsWeights weights{up.codes.data(), down.codes.data(), nullptr,
                                   nullptr,         up.all(),          down.all()};
      EXPECT_TRUE(is_the_same(c, weights, device.input()));
    }
}

// What one launch does not serve.
TEST(WholePass, IsOfFewTokensAlone) {
  MOEREF_NEEDS_DEVICE();
  const auto one_launch = [](const ExpertsConfig& c) {
    const HostCase host = make_case(c, false, 56);
    const DeviceExperts device(host);
    return ForwardPass(c, one_chunk(c), device.parameters(), device.input(), nullptr,
                       device.forward_work.data())
        .is_one_launch();
  };
  EXPECT_TRUE(one_launch(config(8, 2, 4, 64, 8)));
  EXPECT_FALSE(one_launch(config(9, 2, 4, 64, 8)));
  ExpertsConfig c = config(8, 2, 4, 64, 8);
  c.identity_experts = 1;
  EXPECT_FALSE(one_launch(c));
  c = config(8, 2, 4, 64, 8), c.path = ExpertsPath::portable;
  EXPECT_FALSE(one_launch(c));
}

}  // namespace
}  // namespace moeref::cuda::test
