// Bugs that show from a size on: each is found among the drawn sizes, and the report names where it begins.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "moeref/signature.hpp"
#include "property_tests/descriptor/extents.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

NamedTensors sound(const Call& call) {
  NamedTensors out = CpuReference().run(call);
  std::erase_if(out, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  return out;
}

std::int64_t field(const Call& call, const char* name) { return call.config.at(name).get<std::int64_t>(); }

/// The first slices of a tensor, and zeros where there are more in the new shape.
Tensor resized(const Tensor& tensor, const Shape& shape) {
  Tensor out(tensor.dtype(), shape);
  const std::size_t bytes = std::min(out.bytes().size(), tensor.bytes().size());
  std::ranges::copy(tensor.bytes().first(bytes), out.bytes().begin());
  return out;
}

/// One thread per expert in blocks of 256.
NamedTensors sees_256_experts(Call call) {
  const Call whole = call;
  const std::int64_t experts = field(call, "n_routed_experts");
  if (experts <= 256 || 256 % field(call, "n_expert_groups") != 0 ||
      find(call.tensors, "inputs/replay_indices"))
    return sound(call);
  call.config["n_routed_experts"] = 256;
  for (auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/") && tensor.extent(0) == experts) {
      Shape shape = tensor.shape();
      shape[0] = 256;
      tensor = resized(tensor, shape);
    }
  NamedTensors out = sound(call);
  for (const TensorSpec& spec : signature(whole).outputs)
    if (const auto found = out.find(spec.name); found != out.end() && found->second.shape() != spec.shape)
      found->second = resized(found->second, spec.shape);
  return out;
}

/// A path for these sizes alone.
NamedTensors weighs_corrected_scores(Call call) {
  if (field(call, "n_routed_experts") == 128 && field(call, "n_activated_experts") == 8)
    call.config["router_weight_uses_score_correction_bias"] = true;
  return sound(call);
}

NamedTensors routes_1024_tokens(Call call) {
  NamedTensors out = sound(call);
  Tensor& ids = out.at("outputs/indices");
  for (std::int64_t i = 1024 * ids.extent(1); i < ids.size(); ++i) ids.set(i, 0);
  return out;
}

/// y[row, column] is lost where `lost` says so.
template <typename Lost>
NamedTensors without(const Call& call, Lost&& lost) {
  NamedTensors out = sound(call);
  Tensor& y = out.at("outputs/y");
  const std::int64_t columns = y.shape().back();
  for (std::int64_t i = 0; i < y.size(); ++i)
    if (lost(i / columns, i % columns, columns)) y.set(i, 0.0);
  return out;
}

NamedTensors tile_runs_into_the_next_row(Call call) {
  return without(call, [](std::int64_t row, std::int64_t column, std::int64_t columns) {
    return columns > 128 && row > 0 && column < 256 - columns;
  });
}

NamedTensors upper_half_unwritten(Call call) {
  return without(call, [](std::int64_t, std::int64_t column, std::int64_t) { return column % 128 >= 64; });
}

/// Products in steps of 32 terms leave out the last ones of more than 64.
NamedTensors contraction_tail_lost(Call call) {
  Tensor& x = call.tensors.at("inputs/x");
  const std::int64_t columns = x.shape().back(), tail = columns > 64 ? columns % 32 : 0;
  for (std::int64_t i = 0; i < x.size(); ++i)
    if (i % columns >= columns - tail) x.set(i, 0.0);
  return sound(call);
}

NamedTensors room_for_512_rows(Call call) {
  Tensor& ids = call.tensors.at("inputs/indices");
  std::vector<std::int64_t> rows(static_cast<std::size_t>(field(call, "n_routed_experts")));
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0 && ++rows[static_cast<std::size_t>(ids[i])] > 512) ids.set(i, -1);
  return sound(call);
}

/// The bug itself begins at 32768 rows, where shrinking takes a minute.
NamedTensors last_64_rows_lost(Call call) {
  Tensor& ids = call.tensors.at("inputs/indices");
  if (ids.size() > 4096 && ids.size() % 64 != 0)
    for (std::int64_t i = ids.size() - 64; i < ids.size(); ++i) ids.set(i, -1);
  return sound(call);
}

struct SizeBug {
  const char* name;
  const char* bug;  ///< of golden/notes/bugs.json; empty where it is our own
  Component component;
  NamedTensors (*run)(Call);
  std::vector<std::string_view> thresholds;  ///< one of them must be named
};

void PrintTo(const SizeBug& bug, std::ostream* out) { *out << bug.name; }

const SizeBug kBugs[] = {
    {"experts_beyond_256",
     "O39",
     Component::gate,
     sees_256_experts,
     {"wrong from 257 experts on (256 pass)"}},
    {"path_of_128_experts_8_slots",
     "O40",
     Component::gate,
     weighs_corrected_scores,
     {"wrong at 128 experts, right at 127 and at 129"}},
    {"tokens_beyond_1024",
     "O41",
     Component::gate,
     routes_1024_tokens,
     {"wrong from 1025 tokens on (1024 pass)"}},
    {"tile_edge_past_128_columns",
     "O42",
     Component::experts,
     tile_runs_into_the_next_row,
     {"wrong from 129 columns on (128 pass)"}},
    {"half_of_wide_columns",
     "O43",
     Component::mlp,
     upper_half_unwritten,
     {"wrong from 65 columns on (64 pass)"}},
    {"contraction_tail", "", Component::mlp, contraction_tail_lost, {"wrong from 65 columns on (64 pass)"}},
    {"room_for_512_rows",
     "O44",
     Component::experts,
     room_for_512_rows,
     {"wrong from 513 rows of an expert on (512 pass)", "wrong from 513 tokens on (512 pass)"}},
    {"rows_beyond_4096",
     "O45",
     Component::experts,
     last_64_rows_lost,
     {"wrong from 4097 tokens on (4096 pass)", "wrong from 2049 tokens, 4098 rows, on (2048 pass)"}},
};

/// The reference with the bug, for calls of its component.
class WithSizeBug final : public Implementation {
 public:
  explicit WithSizeBug(const SizeBug& bug) : bug_(bug) {}
  std::string name() const override { return bug_.name; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call& call) override { return bug_.run(call); }

 private:
  const SizeBug& bug_;
};

class SizeBugTest : public testing::TestWithParam<SizeBug> {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(SizeBugTest, IsFoundAndItsThresholdNamed) {
  WithSizeBug port(GetParam());
  RunOptions options;
  options.cases = 400;
  options.seed = 5;
  options.components = {GetParam().component};
  const RunReport report = run_property(*find_property("every_size"), port, options);
  ASSERT_EQ(report.status, RunStatus::failed) << report.passed << " passed";
  RecordProperty("cases", report.passed);
  std::string all;
  for (const std::string& threshold : report.thresholds) all += threshold + "\n";
  std::printf("%d cases passed before, %.1f s, %s\n%s", report.passed, report.seconds,
              to_line(*report.smallest).c_str(), all.c_str());
  EXPECT_TRUE(std::ranges::any_of(GetParam().thresholds, [&](std::string_view want) {
    return std::ranges::find(report.thresholds, want) != report.thresholds.end();
  })) << all;
}

INSTANTIATE_TEST_SUITE_P(All, SizeBugTest, testing::ValuesIn(kBugs),
                         [](const auto& info) { return std::string(info.param.name); });

/// A layer of real width is drawn within its budget, and the line stands for it.
TEST(LargeSizes, StayWithinTheirRange) {
  for (const Scale scale : {Scale::kernel, Scale::full})
    for (const Component component : find_property("every_size")->components)
      for (std::uint64_t bits = 0; bits < 200; ++bits) {
        const SizeRange range = size_range(scale, true);
        Descriptor d = draw_descriptor(component, bits, range);
        Descriptor again = d;
        repair(again);
        EXPECT_EQ(again, d) << to_line(d);
        EXPECT_LE(multiply_adds(d), range.multiply_adds) << to_line(d);
        EXPECT_EQ(parse_descriptor(to_line(d)), d) << to_line(d);
        EXPECT_GE(d.D, 2048) << to_line(d);
      }
}

TEST(LargeSizes, ComeInTypesThatThePortOffers) {
  SizeRange range = size_range(Scale::kernel);
  for (const DType only : {DType::float32, DType::float16}) {
    range.dtypes = {only};
    for (std::uint64_t bits = 0; bits < 50; ++bits)
      EXPECT_EQ(draw_descriptor(Component::experts, bits, range).dtype, only);
  }
}

TEST(LargeSizes, PassTheRangeOf32Bits) {
  int passing = 0;
  for (const Component component : {Component::mlp, Component::experts})
    for (std::uint64_t bits = 0; bits < 60; ++bits) {
      const Descriptor d = draw_descriptor(component, bits, size_range(Scale::full));
      const double rows =
          static_cast<double>(d.T) * (component == Component::mlp ? 1.0 : static_cast<double>(d.k));
      passing += rows * static_cast<double>(d.I) * (component == Component::mlp ? 1.0 : 2.0) > 0x1p31;
    }
  EXPECT_GT(passing, 20);
}

}  // namespace
}  // namespace moeref
