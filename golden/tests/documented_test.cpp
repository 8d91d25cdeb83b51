// What the documented system computed lies within the reference's bounds: every case, none excluded.
#include <gtest/gtest.h>

#include <array>
#include <filesystem>

#include "moeref/golden_file.hpp"
#include "moeref/verdict.hpp"

namespace moeref {
namespace {

TEST(DocumentedSystem, All127CasesAgree) {
  const std::array<std::filesystem::path, 1> folder{MOEREF_DOCUMENTED_SYSTEM};
  const auto files = list_golden_files(folder);
  EXPECT_EQ(files.size(), 127U);
  std::int64_t tokens = 0, ambiguous = 0;
  for (const auto& path : files) {
    const GoldenFile file = read_golden(path);
    const CaseVerdict verdict = judge(file.call, file.results);
    tokens += verdict.tokens;
    ambiguous += verdict.ambiguous_tokens;
    EXPECT_LE(verdict.verdict, Verdict::ambiguous) << path.filename();
    if (const TensorVerdict* failure = verdict.first_failure())
      ADD_FAILURE() << path.filename() << ' ' << failure->tensor << " r = " << failure->ratio << ' '
                    << failure->finding;
  }
  // Rounding to bfloat16 lets some tokens choose otherwise; were they many, bugs could hide among them.
  EXPECT_LE(static_cast<double>(ambiguous), 0.01 * static_cast<double>(tokens));
}

/// The smallest change that a bound rules out is found, wherever it is.
TEST(DocumentedSystem, AResultMovedBeyondItsBoundFails) {
  const std::filesystem::path folder = MOEREF_DOCUMENTED_SYSTEM;
  for (const char* name :
       {"gate__sigmoid_groups_bias.h5", "experts__swiglu_bias_bf16.h5", "moe__deepseek_v3.h5"}) {
    const GoldenFile file = read_golden(folder / name);
    const Evaluation reference = evaluate(file.call, file.results);
    for (const auto& [tensor, values] : file.results) {
      if (!is_floating(values.dtype())) continue;
      NamedTensors moved = file.results;
      const BoundedTensor& want = reference.results.at(tensor);
      const std::int64_t at = values.size() / 2;
      moved[tensor] = values.cast(DType::float64);
      moved[tensor].set(
          at, want.value[static_cast<std::size_t>(at)] + 1.01 * want.bound[static_cast<std::size_t>(at)]);
      const CaseVerdict verdict = judge(file.call, moved);
      ASSERT_NE(verdict.first_failure(), nullptr) << name << ' ' << tensor;
      EXPECT_EQ(verdict.first_failure()->tensor, tensor);
      EXPECT_EQ(verdict.first_failure()->index, at);
    }
  }
}

}  // namespace
}  // namespace moeref
