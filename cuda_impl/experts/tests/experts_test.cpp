// Routed experts against fp64 on the host, on every path: every activation, every tile edge, routing
// extremes, determinism, graph replay.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>

#include "cuda_impl/experts/tests/device_experts.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"

namespace moeref::cuda::test {
namespace {

/// A way to compute and a type to do it in.
struct Setting {
  ExpertsPath path;
  DataType dtype;
  const char* name;
};
void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }
constexpr Setting kSettings[] = {{ExpertsPath::wgmma_clusters, DataType::bfloat16, "clusters"},
                                 {ExpertsPath::wgmma, DataType::bfloat16, "wgmma"},
                                 {ExpertsPath::wgmma_turns, DataType::bfloat16, "turns"},
                                 {ExpertsPath::few_rows, DataType::bfloat16, "few_rows_bfloat16"},
                                 {ExpertsPath::few_rows, DataType::float16, "few_rows_float16"},
                                 {ExpertsPath::wgmma_planes, DataType::float32, "planes"},
                                 {ExpertsPath::portable, DataType::bfloat16, "portable_bfloat16"},
                                 {ExpertsPath::portable, DataType::float32, "portable_float32"},
                                 {ExpertsPath::portable, DataType::float16, "portable_float16"}};

#define MOEREF_NEEDS(setting) MOEREF_SKIP(is_wgmma((setting).path) ? wgmma_missing() : device_missing())

void expect_forward_and_backward(const HostCase& c) {
  const HostResult want = host_experts(c);
  DeviceExperts device(c);
  device.forward();
  device.backward();
  check(cudaDeviceSynchronize(), "experts");
  const ExpertsConfig& f = c.config;
  const auto compare = [&](const char* name, const DeviceMatrix& got, const std::vector<double>& right,
                           std::int64_t width) { expect_close(name, f.dtype, got.values(), right, width); };
  compare("output", device.output, want.output, f.dim);
  compare("dx", device.dx, want.dx, f.dim);
  const std::vector<float> dw = device.dweights.get();
  expect_close("dweights", f.dtype, {dw.begin(), dw.end()}, want.dweights, want.dweights.size());
  compare("dgate_up", device.dgate_up, want.dgate_up, f.up_width());
  compare("ddown", device.ddown, want.ddown, f.dim);
  compare("dgate_up_bias", device.dgate_up_bias, want.dgate_up_bias, f.up_width());
  compare("ddown_bias", device.ddown_bias, want.ddown_bias, f.dim);
}

// One slot a token; expert e gets counts[e] rows, in random token order.
HostCase with_counts(ExpertsConfig f, const std::vector<int>& counts, bool bias, std::uint64_t seed) {
  f.tokens = std::accumulate(counts.begin(), counts.end(), 0);
  f.experts = static_cast<int>(counts.size());
  f.slots = 1;
  HostCase c = make_case(f, bias, seed);
  c.ids.clear();
  for (std::size_t e = 0; e < counts.size(); ++e) c.ids.insert(c.ids.end(), counts[e], static_cast<int>(e));
  std::mt19937_64 rng(seed + 1);
  std::shuffle(c.ids.begin(), c.ids.end(), rng);
  return c;
}

struct Variant {
  Activation activation;
  ActivationParameters parameters;
  bool bias, after_down;
  const char* name;
};
void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }

class ExpertsVariant : public testing::TestWithParam<std::tuple<Variant, Setting>> {
 protected:
  static const Variant& variant() { return std::get<0>(GetParam()); }
  static const Setting& setting() { return std::get<1>(GetParam()); }
  static bool bias() { return variant().bias; }
  static ExpertsConfig config(std::int64_t tokens, int dim, int inter_dim, int experts, int slots) {
    return {tokens,
            dim,
            inter_dim,
            experts,
            slots,
            variant().activation,
            variant().parameters,
            variant().after_down,
            setting().dtype,
            setting().path};
  }
};

// Rows per expert around every tile edge: 16 (step of N), 64 (a portable tile, the K block of the weight
// gradients), 160 and 320 (a block and a cluster's tile).
TEST_P(ExpertsVariant, RowsAtEveryTileEdge) {
  MOEREF_NEEDS(setting());
  const std::vector<int> counts = {0,   1,   15,  16,  17,  0,   31,  32,  33,  63,  64,  65,
                                   127, 128, 129, 159, 160, 161, 319, 320, 321, 480, 660, 0};
  expect_forward_and_backward(with_counts(config(0, 72, 40, 0, 0), counts, bias(), 11));
}

// Widths around the tiles' 64, 128 and 256 columns, and K around its blocks of 32 and 64; on paths
// that take any also odd ones.
TEST_P(ExpertsVariant, WidthsAtEveryTileEdge) {
  MOEREF_NEEDS(setting());
  std::vector<std::pair<int, int>> widths{{8, 8},    {64, 64},   {128, 128}, {136, 120},
                                          {256, 56}, {264, 136}, {248, 192}, {520, 264}};
  if (setting().path == ExpertsPath::portable || setting().path == ExpertsPath::wgmma_planes)
    widths.insert(widths.end(),
                  {{1, 1}, {3, 5}, {31, 33}, {33, 31}, {63, 65}, {65, 63}, {96, 36}, {129, 127}});
  for (const auto& [dim, inter_dim] : widths) {
    SCOPED_TRACE(testing::Message() << "dim " << dim << " inter_dim " << inter_dim);
    expect_forward_and_backward(make_case(config(37, dim, inter_dim, 3, 2), bias(), 17 + dim));
  }
}

// Masked tokens, ids outside the experts, the same expert twice for one token; what they hold must not
// matter.
TEST_P(ExpertsVariant, MaskedTokensAndUnroutedSlots) {
  MOEREF_NEEDS(setting());
  HostCase c = make_case(config(211, 128, 96, 7, 3), bias(), 23);
  c.mask.assign(211, 1);
  const bf16 nan = __float2bfloat16(NAN);
  for (int t = 0; t < 211; ++t) {
    if (t % 5 == 0) {
      c.mask[t] = 0;
      for (int d = 0; d < 128; ++d) c.x[t * 128 + d] = c.d_output[t * 128 + d] = nan;
    }
    if (t % 7 == 1) c.ids[t * 3 + 1] = -1;
    if (t % 11 == 2) c.ids[t * 3] = c.ids[t * 3 + 2];
    if (t % 13 == 3) c.ids[t * 3] = 7, c.ids[t * 3 + 1] = -5, c.ids[t * 3 + 2] = 1 << 30;
  }
  expect_forward_and_backward(c);
}

TEST_P(ExpertsVariant, AllTokensToOneExpert) {
  MOEREF_NEEDS(setting());
  // Of seed 29 one element of H lies so near the middle of the two float16 numbers beside the limit 0.8 that
  // sums in fp32 and fp64 round it to different sides.
  HostCase c = make_case(config(700, 64, 136, 5, 1), bias(), 30);
  std::fill(c.ids.begin(), c.ids.end(), 3);
  expect_forward_and_backward(c);
}

INSTANTIATE_TEST_SUITE_P(
    AllActivations, ExpertsVariant,
    testing::Combine(
        testing::Values(Variant{Activation::swiglu, {1.702f, 0.0f}, false, false, "swiglu"},
                        Variant{Activation::swiglu, {1.702f, 0.0f}, false, true, "swiglu_after_down"},
                        Variant{
                            Activation::swiglu, {1.702f, 0.8f}, true, true, "swiglu_limit_bias_after_down"},
                        Variant{Activation::swigluoai, {1.702f, 1.1f}, true, false, "swigluoai_limit_bias"},
                        Variant{Activation::swigluoai, {1.3f, 0.0f}, false, false, "swigluoai"},
                        Variant{Activation::quick_geglu, {1.702f, 1.4f}, true, false, "quick_geglu_bias"},
                        Variant{Activation::geglu, {}, true, false, "geglu_bias"},
                        Variant{Activation::geglu, {}, false, false, "geglu"},
                        Variant{Activation::relu2, {}, true, true, "relu2_bias_after_down"},
                        Variant{Activation::relu2, {}, false, false, "relu2"}),
        testing::ValuesIn(kSettings)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) + "_on_" + std::get<1>(info.param).name;
    });

class Experts : public testing::TestWithParam<Setting> {
 protected:
  static ExpertsConfig in_setting(ExpertsConfig c) {
    c.dtype = GetParam().dtype, c.path = GetParam().path;
    return c;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryPath, Experts, testing::ValuesIn(kSettings),
                         [](const auto& info) { return std::string(info.param.name); });

// Over 320 rows an expert on average the weight gradients have other tiles: 256 columns, and up to 256 rows
// that stay in shared memory.
using ExpertsOfManyRows = Experts;
INSTANTIATE_TEST_SUITE_P(OnWgmma, ExpertsOfManyRows, testing::Values(kSettings[0], kSettings[1]),
                         [](const auto& info) { return std::string(info.param.name); });
TEST_P(ExpertsOfManyRows, RowsAtEveryTileEdge) {
  MOEREF_NEEDS(GetParam());
  const std::vector<int> counts = {0,   1,   16,  63,  64,   65,   192,  255, 256,
                                   257, 320, 321, 640, 1000, 1300, 1500, 0};
  for (const auto& [dim, inter_dim] : {std::pair{72, 40}, {136, 96}, {264, 136}, {392, 264}}) {
    SCOPED_TRACE(testing::Message() << "dim " << dim << " inter_dim " << inter_dim);
    expect_forward_and_backward(with_counts(in_setting({0, dim, inter_dim, 0, 0}), counts, true, 53));
  }
}

TEST_P(Experts, NoTokensAndOneToken) {
  MOEREF_NEEDS(GetParam());
  for (int tokens : {0, 1}) {
    SCOPED_TRACE(tokens);
    expect_forward_and_backward(make_case(in_setting({tokens, 64, 64, 4, 2}), true, 31));
  }
}

// One expert's gradients overflow; its neighbours' stay as they were.
TEST_P(Experts, InfinitiesStayInTheirExpert) {
  MOEREF_NEEDS(GetParam());
  HostCase c = with_counts(in_setting({0, 64, 64, 0, 0}), {70, 30, 70}, false, 37);
  DeviceExperts clean(c);
  clean.forward(), clean.backward();
  for (std::size_t t = 0; t < c.ids.size(); ++t)
    if (c.ids[t] == 1) c.d_output[t * 64] = c.x[t * 64] = __float2bfloat16(INFINITY);
  DeviceExperts dirty(c);
  dirty.forward(), dirty.backward();
  const auto compare = [](const DeviceMatrix& a, const DeviceMatrix& b, int expert) {
    const std::vector<char> x = a.bits(), y = b.bits();
    const std::size_t n = x.size() / 3;
    return std::memcmp(&x[expert * n], &y[expert * n], n);
  };
  for (int expert : {0, 2}) {
    EXPECT_EQ(compare(clean.dgate_up, dirty.dgate_up, expert), 0) << expert;
    EXPECT_EQ(compare(clean.ddown, dirty.ddown, expert), 0) << expert;
  }
}

// What is infinite and what is NaN, of the first tile of an expert and of its last, is as in fp64: planes of
// an infinite number alone would say NaN everywhere.
TEST_P(Experts, InfinitiesComeOutAsInfinities) {
  MOEREF_NEEDS(GetParam());
  HostCase c = with_counts(in_setting({0, 64, 64, 0, 0, Activation::relu2}), {70, 200, 70}, false, 39);
  for (bf16& w : c.down) w = __float2bfloat16(std::abs(__bfloat162float(w)));
  const auto first = std::find(c.ids.begin(), c.ids.end(), 0) - c.ids.begin(),
             last = c.ids.rend() - std::find(c.ids.rbegin(), c.ids.rend(), 1) - 1;
  c.x[first * 64] = c.x[last * 64 + 63] = __float2bfloat16(INFINITY);
  const auto second = std::find(c.ids.begin() + first + 1, c.ids.end(), 0) - c.ids.begin();
  c.d_output[second * 64 + 3] = __float2bfloat16(-INFINITY);
  const HostResult want = host_experts(c);
  DeviceExperts device(c);
  device.forward(), device.backward();
  const auto word = [](double v) { return std::isnan(v) ? "NaN" : std::isinf(v) ? "infinite" : "finite"; };
  const auto compare = [&](const char* name, const std::vector<double>& got,
                           const std::vector<double>& right) {
    ASSERT_EQ(got.size(), right.size());
    int others = 0, infinite = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      infinite += std::isinf(right[i]);
      if (std::strcmp(word(got[i]), word(right[i])) != 0 || (std::isinf(right[i]) && got[i] != right[i]))
        others++;
    }
    EXPECT_EQ(others, 0) << name;
    EXPECT_GT(infinite, 0) << name;
  };
  compare("output", device.output.values(), want.output);
  compare("ddown", device.ddown.values(), want.ddown);
}

void expect_same_bits(const DeviceExperts& a, const DeviceExperts& b) {
  const auto x = a.bits(), y = b.bits();
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(x[i].second == y[i].second) << x[i].first;
}

TEST_P(Experts, SameBitsOnEveryRun) {
  MOEREF_NEEDS(GetParam());
  const HostCase c = make_case(in_setting({3000, 512, 320, 16, 4}), true, 41);
  DeviceExperts first(c), device(c);
  first.forward(), first.backward();
  for (int byte : {0x00, 0x7f, 0xff, 0x41}) {
    device.poison(byte);
    device.forward(), device.backward();
    expect_same_bits(device, first);
  }
}

// A whole step captured once and replayed with another routing gives the bits of a direct run with that
// routing.
TEST_P(Experts, GraphReplaysWithAnotherRouting) {
  MOEREF_NEEDS(GetParam());
  const ExpertsConfig f = in_setting({1500, 256, 192, 12, 3, Activation::swigluoai, {1.702f, 7.0f}});
  HostCase first = make_case(f, true, 43), second = make_case(f, true, 43);
  for (std::size_t i = 0; i < second.ids.size(); ++i)
    second.ids[i] = int(i * i % 5), second.weights[i] = 0.5f;
  DeviceExperts direct(second), captured(first);
  direct.forward(), direct.backward();
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  captured.forward(stream), captured.backward(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "replay");
  captured.ids.set(second.ids), captured.weights.set(second.weights);
  captured.poison(0xff);
  check(cudaDeviceSynchronize(), "poison");
  check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "replay");
  expect_same_bits(captured, direct);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

// Rows x width above 2^31 elements of H: the last tokens are right.
TEST_P(Experts, RowsTimesWidthBeyond31Bits) {
  MOEREF_NEEDS(GetParam());
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const ExpertsConfig f = in_setting({131080, 8, 8200, 2, 1});
  if (free < std::size_t{2} << 30 || free - (std::size_t{2} << 30) < saved_bytes(f) +
                                                                         forward_workspace_bytes(f) +
                                                                         backward_workspace_bytes(f))
    GTEST_SKIP() << "not enough free memory on the device: nothing was tested";
  HostCase c = make_case(f, false, 47);
  for (std::size_t t = 0; t < c.ids.size(); ++t) c.ids[t] = t >= 1000;
  DeviceExperts device(c);
  device.poison(0xff);
  device.forward(), device.backward();
  const auto output = device.output.values(), dx = device.dx.values();
  // Units of one step of K follow each other faster than in any real layer: none may be left out, which would
  // leave the NaN that all memory has.
  for (const auto* all : {&output, &dx})
    EXPECT_EQ(std::count_if(all->begin(), all->end(), [](double v) { return !std::isfinite(v); }), 0);
  HostCase last = c;
  last.config.tokens = 8;
  last.x.erase(last.x.begin(), last.x.end() - 64),
      last.d_output.erase(last.d_output.begin(), last.d_output.end() - 64);
  last.ids.assign(8, 1), last.weights.erase(last.weights.begin(), last.weights.end() - 8);
  const HostResult want = host_experts(last);
  for (int i = 0; i < 64; ++i) {
    EXPECT_NEAR(output[output.size() - 64 + i], want.output[i], 0.05) << i;
    EXPECT_NEAR(dx[dx.size() - 64 + i], want.dx[i], 0.02 * std::abs(want.dx[i]) + 0.5) << i;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
