// Bugs that show from a size on (golden/recipes/sizes.json), each put into the reference: every case that
// names one fails on it, at the tensor that the bug makes wrong, and a port of bfloat16 alone meets it too.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "golden/catalogue/recipes.hpp"
#include "moeref/config.hpp"
#include "moeref/golden_file.hpp"
#include "moeref/verdict.hpp"

namespace moeref {
namespace {

std::int64_t size(const Call& call, const char* field) { return call.config.at(field).get<std::int64_t>(); }

/// What a port gives that shows none of its stages.
NamedTensors answer(const Call& call) {
  NamedTensors out = CpuReference().run(call);
  std::erase_if(out, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  return out;
}

/// The first `count` slices of a tensor's first axis.
Tensor first_slices(const Tensor& tensor, std::int64_t count) {
  Shape shape = tensor.shape();
  shape.at(0) = count;
  Tensor out(tensor.dtype(), shape);
  std::ranges::copy(tensor.bytes().first(out.bytes().size()), out.bytes().begin());
  return out;
}

NamedTensors sees_256_experts(Call call) {
  const std::int64_t experts = size(call, "n_routed_experts");
  call.config["n_routed_experts"] = 256;
  for (auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/") && tensor.extent(0) == experts) tensor = first_slices(tensor, 256);
  return answer(call);
}

NamedTensors weighs_corrected_scores(Call call) {
  if (size(call, "n_routed_experts") == 128 && size(call, "n_activated_experts") == 8)
    call.config["router_weight_uses_score_correction_bias"] = true;
  return answer(call);
}

NamedTensors routes_1024_tokens(Call call) {
  NamedTensors out = answer(call);
  Tensor& ids = out.at("outputs/indices");
  for (std::int64_t i = 1024 * ids.extent(1); i < ids.size(); ++i) ids.set(i, 0);
  return out;
}

/// Elements of y by row and column.
void change_y(NamedTensors& out, const std::function<double(std::int64_t, std::int64_t, double)>& f) {
  Tensor& y = out.at("outputs/y");
  const std::int64_t columns = y.shape().back();
  for (std::int64_t i = 0; i < y.size(); ++i) y.set(i, f(i / columns, i % columns, y[i]));
}

NamedTensors tile_runs_into_the_next_row(Call call) {
  NamedTensors out = answer(call);
  const std::int64_t columns = size(call, "dim");
  if (columns <= 128) return out;
  change_y(out, [&](std::int64_t row, std::int64_t column, double y) {
    return row > 0 && column < 256 - columns ? 0.0 : y;
  });
  return out;
}

NamedTensors upper_half_unwritten(Call call) {
  NamedTensors out = answer(call);
  change_y(out, [](std::int64_t, std::int64_t column, double y) { return column % 128 < 64 ? y : 0.0; });
  return out;
}

NamedTensors room_for_512_rows(Call call) {
  Tensor& ids = call.tensors.at("inputs/indices");
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size(call, "n_routed_experts")));
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0 && ++rows[static_cast<std::size_t>(ids[i])] > 512) ids.set(i, -1);
  return answer(call);
}

NamedTensors last_64_rows_lost(Call call) {
  Tensor& ids = call.tensors.at("inputs/indices");
  if (ids.size() > 32768 && ids.size() % 64 != 0)
    for (std::int64_t i = ids.size() - 64; i < ids.size(); ++i) ids.set(i, -1);
  return answer(call);
}

/// weight [out, D] applied to latent rows: weight times latent [D, D], in the weight's type.
void behind(Tensor& weight, const Tensor& latent) {
  const Tensor own = weight;
  const std::int64_t inner = latent.extent(0), columns = latent.extent(1);
  for (std::int64_t i = 0; i < weight.size(); ++i) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < inner; ++j)
      sum += own[i / columns * inner + j] * latent[j * columns + i % columns];
    weight.set(i, sum);
  }
}

NamedTensors gate_sees_latent(Call call) {
  behind(call.tensors.at("params/gate.weight"), call.tensors.at("params/fc1_latent_proj.weight"));
  return answer(call);
}

NamedTensors shared_experts_see_latent(Call call) {
  for (const char* name : {"params/shared_experts.gate_proj.weight", "params/shared_experts.up_proj.weight"})
    behind(call.tensors.at(name), call.tensors.at("params/fc1_latent_proj.weight"));
  return answer(call);
}

struct SizeBug {
  const char* flag;
  NamedTensors (*run)(Call);
  const char* tensor;  ///< what goes wrong first
};

void PrintTo(const SizeBug& bug, std::ostream* out) { *out << bug.flag; }

constexpr SizeBug kBugs[] = {
    {"O39", sees_256_experts, "outputs/indices"},    {"O40", weighs_corrected_scores, "outputs/weights"},
    {"O41", routes_1024_tokens, "outputs/indices"},  {"O42", tile_runs_into_the_next_row, "outputs/y"},
    {"O43", upper_half_unwritten, "outputs/y"},      {"O44", room_for_512_rows, "outputs/y"},
    {"O45", last_64_rows_lost, "outputs/y"},         {"O46", gate_sees_latent, "outputs/indices"},
    {"O47", shared_experts_see_latent, "outputs/y"},
};

class SizeBugTest : public testing::TestWithParam<SizeBug> {};

TEST_P(SizeBugTest, FailsInEveryCaseThatNamesIt) {
  int cases = 0, in_bfloat16 = 0;
  for (const CaseSpec& spec : recipes()) {
    if (std::ranges::find(spec.flags, GetParam().flag) == spec.flags.end()) continue;
    SCOPED_TRACE(label(spec));
    Call call = read_golden(std::filesystem::path(MOEREF_GOLDEN_CASES) / file_name(spec)).call;
    call.backward = false;
    std::erase_if(call.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
    ++cases;
    in_bfloat16 += parse_moe_config(call.config).dtype == DType::bfloat16;
    EXPECT_EQ(judge(call, answer(call)).verdict, Verdict::pass);
    const CaseVerdict verdict = judge(call, GetParam().run(call));
    ASSERT_EQ(verdict.verdict, Verdict::fail);
    EXPECT_EQ(verdict.first_failure()->tensor, GetParam().tensor);
  }
  EXPECT_GE(cases, 2);
  EXPECT_GE(in_bfloat16, 1);
}

INSTANTIATE_TEST_SUITE_P(Sizes, SizeBugTest, testing::ValuesIn(kBugs),
                         [](const auto& info) { return std::string(info.param.flag); });

}  // namespace
}  // namespace moeref
