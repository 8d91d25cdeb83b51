// Launches whose blocks take several units of several strips each, one after another, against the portable
// path: what a block carries from one unit to the next (stages, phases, turns, tickets) must not show.
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_impl/experts/tests/device_experts.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"

namespace moeref::cuda::test {
namespace {

/// Weight gradients of 219 rows per expert, all in shared memory at once, and of 1750, which come in parts.
struct Load {
  int tokens, experts;
  const char* name;
};
void PrintTo(const Load& l, std::ostream* out) { *out << l.name; }
constexpr Load kLoads[] = {{7000, 64, "64_experts"}, {14000, 16, "16_experts"}};

/// Limits that no value reaches: a value that rounds to either side of one has two right gradients.
struct Kind {
  Activation activation;
  ActivationParameters parameters;
  bool bias, after_down;
  const char* name;
};
void PrintTo(const Kind& k, std::ostream* out) { *out << k.name; }
constexpr Kind kKinds[] = {{Activation::swiglu, {1.702f, 0.0f}, false, false, "swiglu"},
                           {Activation::swiglu, {1.702f, 1000.0f}, true, true, "swiglu_bias_after_down"},
                           {Activation::swigluoai, {1.702f, 0.0f}, false, false, "swigluoai"},
                           {Activation::quick_geglu, {1.702f, 1000.0f}, true, false, "quick_geglu_bias"},
                           {Activation::geglu, {}, false, true, "geglu_after_down"},
                           {Activation::relu2, {}, false, false, "relu2"}};

/// Takes seconds to draw, so that the tests of one load share it: a kind needs it or its beginning.
const HostCase& drawn(const Load& load) {
  static std::map<int, std::unique_ptr<HostCase>> by_experts;
  std::unique_ptr<HostCase>& mine = by_experts[load.experts];
  if (!mine) {
    const ExpertsConfig f{load.tokens, 1160, 392, load.experts, 2};
    mine = std::make_unique<HostCase>(make_case(f, true, 61));
  }
  return *mine;
}

HostCase case_of(const Load& load, const Kind& kind, ExpertsPath path, DataType dtype = DataType::bfloat16) {
  HostCase c = drawn(load);
  ExpertsConfig& f = c.config;
  f.activation = kind.activation, f.activation_parameters = kind.parameters;
  f.apply_router_weight_after_down = kind.after_down;
  f.dtype = dtype, f.path = path;
  c.gate_up.resize(std::size_t(f.experts) * f.dim * f.up_width());
  c.gate_up_bias.resize(kind.bias ? std::size_t(f.experts) * f.up_width() : 0);
  if (!kind.bias) c.down_bias.clear();
  return c;
}

void run(DeviceExperts& device) {
  device.forward(), device.backward();
  check(cudaDeviceSynchronize(), "experts");
}

class ExpertsSchedule : public testing::TestWithParam<std::tuple<Load, Kind>> {
 protected:
  void SetUp() override { MOEREF_SKIP(wgmma_missing()); }
};

void expect_agrees_with_portable(const Load& load, const Kind& kind, DataType dtype,
                                 const std::vector<ExpertsPath>& paths) {
  DeviceExperts portable(case_of(load, kind, ExpertsPath::portable, dtype));
  run(portable);
  for (const ExpertsPath path : paths) {
    SCOPED_TRACE(word_of(path));
    DeviceExperts device(case_of(load, kind, path, dtype));
    run(device);
    const ExpertsConfig& f = device.config;
    const auto compare = [&](const char* name, const DeviceMatrix& got, const DeviceMatrix& want,
                             std::int64_t width) {
      expect_close(name, f.dtype, got.values(), want.values(), width);
    };
    compare("output", device.output, portable.output, f.dim);
    compare("dx", device.dx, portable.dx, f.dim);
    compare("dgate_up", device.dgate_up, portable.dgate_up, f.up_width());
    compare("ddown", device.ddown, portable.ddown, f.dim);
    compare("dgate_up_bias", device.dgate_up_bias, portable.dgate_up_bias, f.up_width());
    compare("ddown_bias", device.ddown_bias, portable.ddown_bias, f.dim);
    const std::vector<float> got = device.dweights.get(), want = portable.dweights.get();
    expect_close("dweights", f.dtype, {got.begin(), got.end()}, {want.begin(), want.end()}, want.size());
  }
}

TEST_P(ExpertsSchedule, SeveralUnitsPerBlock) {
  const auto& [load, kind] = GetParam();
  expect_agrees_with_portable(load, kind, DataType::bfloat16,
                              {ExpertsPath::wgmma, ExpertsPath::wgmma_clusters, ExpertsPath::wgmma_turns});
}

TEST_P(ExpertsSchedule, SeveralUnitsPerBlockInPlanes) {
  const auto& [load, kind] = GetParam();
  expect_agrees_with_portable(load, kind, DataType::float32, {ExpertsPath::wgmma_planes});
}

// Which block takes a unit of work changes no bit.
TEST_P(ExpertsSchedule, SameBitsWhoeverTakesAUnit) {
  const auto& [load, kind] = GetParam();
  for (const ExpertsPath path : {ExpertsPath::wgmma, ExpertsPath::wgmma_clusters, ExpertsPath::wgmma_turns}) {
    SCOPED_TRACE(word_of(path));
    DeviceExperts device(case_of(load, kind, path));
    run(device);
    const auto first = device.bits();
    for (int more = 0; more < 2; ++more) {
      device.poison(0x7f);
      run(device);
      const auto again = device.bits();
      for (std::size_t i = 0; i < first.size(); ++i)
        EXPECT_TRUE(again[i].second == first[i].second) << first[i].first;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryActivation, ExpertsSchedule,
                         testing::Combine(testing::ValuesIn(kLoads), testing::ValuesIn(kKinds)),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param).name) + "_of_" +
                                  std::get<0>(info.param).name;
                         });

}  // namespace
}  // namespace moeref::cuda::test
