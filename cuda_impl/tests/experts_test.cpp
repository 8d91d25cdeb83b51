// Routed experts against fp64 on the host: every activation, every tile edge, routing extremes, determinism,
// graph replay.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "device_experts.hpp"

namespace moeref::cuda::test {
namespace {

double value(bf16 v) { return to_double(v); }
double value(float v) { return v; }

// Rows of `width`: each element within one bf16 rounding of its own size and a few of its row's, the whole
// within 6e-3.
template <class T>
void expect_close(const char* name, const DeviceArray<T>& device, const std::vector<double>& want,
                  std::int64_t width) {
  if (device.size() == 0) return;
  const std::vector<T> got = device.get();
  ASSERT_EQ(got.size(), want.size()) << name;
  double error = 0, norm = 0;
  int shown = 0;
  for (std::size_t row = 0; row < want.size(); row += width) {
    const std::size_t end = std::min(row + width, want.size());
    double square = 0;
    for (std::size_t i = row; i < end; ++i) square += want[i] * want[i];
    const double rms = std::sqrt(square / (end - row));
    for (std::size_t i = row; i < end; ++i) {
      const double d = std::abs(value(got[i]) - want[i]);
      error += d * d, norm += want[i] * want[i];
      if (!(d <= 0.008 * std::abs(want[i]) + 0.04 * rms) && shown++ < 5)
        ADD_FAILURE() << name << "[" << row / width << ", " << i - row << "] is " << value(got[i])
                      << ", want " << want[i] << " (row rms " << rms << ")";
    }
  }
  EXPECT_LE(std::sqrt(error), 6e-3 * std::sqrt(norm)) << name;
}

void expect_forward_and_backward(const HostCase& c) {
  const HostResult want = host_experts(c);
  DeviceExperts device(c);
  device.forward();
  device.backward();
  check(cudaDeviceSynchronize(), "experts");
  const ExpertsConfig& f = c.config;
  expect_close("output", device.output, want.output, f.dim);
  expect_close("dx", device.dx, want.dx, f.dim);
  expect_close("dweights", device.dweights, want.dweights, want.dweights.size());
  expect_close("dgate_up", device.dgate_up, want.dgate_up, f.up_width());
  expect_close("ddown", device.ddown, want.ddown, f.dim);
  expect_close("dgate_up_bias", device.dgate_up_bias, want.dgate_up_bias, f.up_width());
  expect_close("ddown_bias", device.ddown_bias, want.ddown_bias, f.dim);
}

HostCase make_case(ExpertsConfig f, bool bias, std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  HostCase c;
  c.config = f;
  const std::size_t D = f.dim, I = f.inter_dim, W = f.up_width(), E = f.experts;
  c.x = random_bf16(f.tokens * D, 1, rng);
  c.d_output = random_bf16(f.tokens * D, 1, rng);
  c.gate_up = random_bf16(E * D * W, 1.2 / std::sqrt(D), rng);
  c.down = random_bf16(E * I * D, 1 / std::sqrt(I), rng);
  if (bias) c.gate_up_bias = random_bf16(E * W, 0.5, rng), c.down_bias = random_bf16(E * D, 0.5, rng);
  c.ids.resize(f.tokens * f.slots);
  c.weights.resize(c.ids.size());
  std::uniform_int_distribution<int> expert(0, f.experts - 1);
  std::uniform_real_distribution<float> weight(0.1f, 1.0f);
  for (std::size_t i = 0; i < c.ids.size(); ++i) c.ids[i] = expert(rng), c.weights[i] = weight(rng);
  return c;
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

class ExpertsVariant : public testing::TestWithParam<Variant> {
 protected:
  ExpertsConfig config(std::int64_t tokens, int dim, int inter_dim, int experts, int slots) const {
    return {tokens,
            dim,
            inter_dim,
            experts,
            slots,
            GetParam().activation,
            GetParam().parameters,
            GetParam().after_down};
  }
};

// Rows per expert around every tile edge: 16 (step of N), 64 (K block of the weight gradients), 160 and 320
// (a block and a tile).
TEST_P(ExpertsVariant, RowsAtEveryTileEdge) {
  MOEREF_NEEDS_DEVICE();
  const std::vector<int> counts = {0,   1,   15,  16,  17,  0,   31,  32,  33,  63,  64,  65,
                                   127, 128, 129, 159, 160, 161, 319, 320, 321, 480, 660, 0};
  expect_forward_and_backward(with_counts(config(0, 72, 40, 0, 0), counts, GetParam().bias, 11));
}

// Widths around the tile's 64, 128 and 256 columns, and K around its blocks of 64.
TEST_P(ExpertsVariant, WidthsAtEveryTileEdge) {
  MOEREF_NEEDS_DEVICE();
  for (const auto& [dim, inter_dim] : std::vector<std::pair<int, int>>{
           {8, 8}, {64, 64}, {128, 128}, {136, 120}, {256, 56}, {264, 136}, {248, 192}, {520, 264}}) {
    SCOPED_TRACE(testing::Message() << "dim " << dim << " inter_dim " << inter_dim);
    expect_forward_and_backward(make_case(config(37, dim, inter_dim, 3, 2), GetParam().bias, 17 + dim));
  }
}

// Masked tokens, ids outside the experts, the same expert twice for one token; what they hold must not
// matter.
TEST_P(ExpertsVariant, MaskedTokensAndUnroutedSlots) {
  MOEREF_NEEDS_DEVICE();
  HostCase c = make_case(config(211, 128, 96, 7, 3), GetParam().bias, 23);
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
  MOEREF_NEEDS_DEVICE();
  HostCase c = make_case(config(700, 64, 136, 5, 1), GetParam().bias, 29);
  std::fill(c.ids.begin(), c.ids.end(), 3);
  expect_forward_and_backward(c);
}

INSTANTIATE_TEST_SUITE_P(
    AllActivations, ExpertsVariant,
    testing::Values(Variant{Activation::swiglu, {1.702f, 0.0f}, false, false, "swiglu"},
                    Variant{Activation::swiglu, {1.702f, 0.0f}, false, true, "swiglu_after_down"},
                    Variant{Activation::swiglu, {1.702f, 0.8f}, true, true, "swiglu_limit_bias_after_down"},
                    Variant{Activation::swigluoai, {1.702f, 1.1f}, true, false, "swigluoai_limit_bias"},
                    Variant{Activation::swigluoai, {1.3f, 0.0f}, false, false, "swigluoai"},
                    Variant{Activation::quick_geglu, {1.702f, 1.4f}, true, false, "quick_geglu_bias"},
                    Variant{Activation::geglu, {}, true, false, "geglu_bias"},
                    Variant{Activation::geglu, {}, false, false, "geglu"},
                    Variant{Activation::relu2, {}, true, true, "relu2_bias_after_down"},
                    Variant{Activation::relu2, {}, false, false, "relu2"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Experts, NoTokensAndOneToken) {
  MOEREF_NEEDS_DEVICE();
  for (int tokens : {0, 1}) {
    SCOPED_TRACE(tokens);
    expect_forward_and_backward(make_case({tokens, 64, 64, 4, 2, Activation::swiglu}, true, 31));
  }
}

// One expert's gradients overflow; its neighbours' stay as they were.
TEST(Experts, InfinitiesStayInTheirExpert) {
  MOEREF_NEEDS_DEVICE();
  HostCase c = with_counts({0, 64, 64, 0, 0, Activation::swiglu}, {70, 30, 70}, false, 37);
  DeviceExperts clean(c);
  clean.forward(), clean.backward();
  for (std::size_t t = 0; t < c.ids.size(); ++t)
    if (c.ids[t] == 1) c.d_output[t * 64] = c.x[t * 64] = __float2bfloat16(INFINITY);
  DeviceExperts dirty(c);
  dirty.forward(), dirty.backward();
  const auto compare = [](const DeviceArray<bf16>& a, const DeviceArray<bf16>& b, int expert) {
    const std::vector<bf16> x = a.get(), y = b.get();
    const std::size_t n = x.size() / 3;
    return std::memcmp(&x[expert * n], &y[expert * n], n * sizeof(bf16));
  };
  for (int expert : {0, 2}) {
    EXPECT_EQ(compare(clean.dgate_up, dirty.dgate_up, expert), 0) << expert;
    EXPECT_EQ(compare(clean.ddown, dirty.ddown, expert), 0) << expert;
  }
}

template <class T>
void expect_same_bits(const char* name, const std::vector<T>& a, const std::vector<T>& b) {
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(T)), 0) << name;
}

TEST(Experts, SameBitsOnEveryRun) {
  MOEREF_NEEDS_DEVICE();
  const HostCase c = make_case({3000, 512, 320, 16, 4, Activation::swiglu}, true, 41);
  DeviceExperts device(c);
  device.forward(), device.backward();
  const auto output = device.output.get(), dx = device.dx.get(), dg = device.dgate_up.get(),
             dd = device.ddown.get();
  const auto dgb = device.dgate_up_bias.get(), ddb = device.ddown_bias.get();
  const auto dw = device.dweights.get();
  for (int byte : {0x00, 0x7f, 0xff, 0x41}) {
    device.poison(byte);
    device.forward(), device.backward();
    expect_same_bits("output", device.output.get(), output);
    expect_same_bits("dx", device.dx.get(), dx);
    expect_same_bits("dgate_up", device.dgate_up.get(), dg);
    expect_same_bits("ddown", device.ddown.get(), dd);
    expect_same_bits("dgate_up_bias", device.dgate_up_bias.get(), dgb);
    expect_same_bits("ddown_bias", device.ddown_bias.get(), ddb);
    expect_same_bits("dweights", device.dweights.get(), dw);
  }
}

// A whole step captured once and replayed with another routing gives the bits of a direct run with that
// routing.
TEST(Experts, GraphReplaysWithAnotherRouting) {
  MOEREF_NEEDS_DEVICE();
  const ExpertsConfig f{1500, 256, 192, 12, 3, Activation::swigluoai, {1.702f, 7.0f}};
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
  check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "replay");
  expect_same_bits("output", captured.output.get(), direct.output.get());
  expect_same_bits("dx", captured.dx.get(), direct.dx.get());
  expect_same_bits("dgate_up", captured.dgate_up.get(), direct.dgate_up.get());
  expect_same_bits("ddown", captured.ddown.get(), direct.ddown.get());
  expect_same_bits("dweights", captured.dweights.get(), direct.dweights.get());
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

// Rows x width above 2^31 elements of H: the last tokens are right.
TEST(Experts, RowsTimesWidthBeyond31Bits) {
  MOEREF_NEEDS_DEVICE();
  const ExpertsConfig f{131080, 8, 8200, 2, 1, Activation::swiglu};
  HostCase c = make_case(f, false, 47);
  for (std::size_t t = 0; t < c.ids.size(); ++t) c.ids[t] = t >= 1000;
  DeviceExperts device(c);
  device.forward(), device.backward();
  const auto output = device.output.get(), dx = device.dx.get();
  HostCase last = c;
  last.config.tokens = 8;
  last.x.erase(last.x.begin(), last.x.end() - 64),
      last.d_output.erase(last.d_output.begin(), last.d_output.end() - 64);
  last.ids.assign(8, 1), last.weights.erase(last.weights.begin(), last.weights.end() - 8);
  const HostResult want = host_experts(last);
  for (int i = 0; i < 64; ++i) {
    EXPECT_NEAR(to_double(output[output.size() - 64 + i]), want.output[i], 0.05) << i;
    EXPECT_NEAR(to_double(dx[dx.size() - 64 + i]), want.dx[i], 0.02 * std::abs(want.dx[i]) + 0.5) << i;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
