// What ranks get and give, against the table of all tensors (moeref/signature.hpp) and on all golden files.
#include "reference_cpu/call/rank_shares.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "tools/port_abi/call_tensors.hpp"
#include "tools/ports/rank_outcomes.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> small_files() {
  const std::vector<fs::path> folders{MOEREF_CASES, MOEREF_DOCUMENTED_SYSTEM};
  std::vector<fs::path> files = list_golden_files(folders);
  std::erase_if(files, [](const fs::path& file) { return fs::file_size(file) > 100'000; });
  return files;
}

Call on_ranks(Call call, const char* kind, std::int64_t ranks) {
  for (const char* option : {"ep_size", "cp_size", "dp_size", "tokens_per_rank", "exchange"})
    call.options.erase(option);
  call.options[kind] = ranks;
  return call;
}

/// Whether E can be divided so.
bool divides(const Call& call, std::int64_t ranks) {
  return call.component == Component::mlp ||
         parse_moe_config(call.config).experts_with_weights() % ranks == 0;
}

/// By tokens is what grows with the tokens, by experts what belongs to routed experts, and nothing else.
TEST(RankSharesTest, TheTableFollowsTheSignature) {
  std::size_t seen = 0;
  for (const fs::path& file : small_files()) {
    const Call call = on_ranks(read_golden(file).call, "ep_size", 2);
    if (call.component == Component::init || call.component == Component::metrics) continue;
    const auto at = [&](std::int64_t tokens) {
      Signature s = signature(call.component, call.config, call.options, {tokens}, call.backward);
      s.inputs.insert(s.inputs.end(), s.outputs.begin(), s.outputs.end());
      return s.inputs;
    };
    const std::vector<TensorSpec> few = at(5), more = at(6);
    ASSERT_EQ(few.size(), more.size());
    for (std::size_t i = 0; i < few.size(); ++i, ++seen) {
      const std::string& name = few[i].name;
      const bool grows = few[i].shape != more[i].shape;
      const bool expert = call.component == Component::experts
                              ? name.starts_with("params/") || (name.starts_with("grads/") && !grows)
                              : name.find("/experts.") != std::string::npos;
      const Division divided = division(call, name);
      EXPECT_EQ(divided == Division::tokens || divided == Division::batch, grows) << file << " " << name;
      EXPECT_EQ(divided == Division::experts, expert) << file << " " << name;
      EXPECT_FALSE(grows && expert) << file << " " << name;
    }
  }
  EXPECT_GT(seen, 1000U);
}

std::int64_t rows_of(const Call& call) {
  const Tensor* x = find(call.tensors, "inputs/x");
  return x ? x->size() / x->shape().back() : 0;
}

/// The ranks' parts of golden results make the golden results again; parts of inputs have the right sizes.
TEST(RankSharesTest, PartsMakeTheWhole) {
  std::size_t seen = 0;
  for (const fs::path& file : small_files()) {
    const GoldenFile golden = read_golden(file);
    for (const char* kind : {"ep_size", "dp_size"}) {
      if (!divides(golden.call, 2)) continue;
      Call call = on_ranks(golden.call, kind, 2);
      const std::int64_t tokens = rows_of(call);
      // All tokens on the last rank, in some.
      if (tokens > 0 && tokens % 2 == 0) call.options["tokens_per_rank"] = {0, tokens};
      const RankShares ranks(call, 2, port_outputs(call, {}));
      RankOutcomes outcomes(2);
      for (std::size_t r = 0; r < 2; ++r) {
        for (const auto& [name, tensor] : golden.results)
          if (!name.starts_with("stages/")) outcomes[r].results[name] = ranks.share(name, tensor, r);
        for (const TensorSpec& spec : ranks.outputs(r))
          if (const Tensor* part = find(outcomes[r].results, spec.name)) {
            EXPECT_EQ(part->shape(), spec.shape) << file << " " << spec.name;
          }
      }
      const NamedTensors joined = ranks.join({outcomes[0].results, outcomes[1].results});
      for (const auto& [name, tensor] : joined)
        EXPECT_EQ(tensor, golden.results.at(name)) << file << " " << kind << " " << name;
      const PortOutcome all = together(ranks, outcomes);
      EXPECT_EQ(all.verdict, Verdict::pass) << file << " " << all.finding;
      for (const auto& [name, tensor] : all.results) {
        EXPECT_EQ(tensor, golden.results.at(name)) << file << " " << kind << " " << name;
        ++seen;
      }
      for (const auto& [name, tensor] : call.tensors) {
        const std::int64_t both =
            ranks.call(0).tensors.at(name).size() + ranks.call(1).tensors.at(name).size();
        EXPECT_EQ(both, division(call, name) == Division::whole ? 2 * tensor.size() : tensor.size())
            << file << " " << name;
      }
    }
  }
  EXPECT_GT(seen, 1000U);
}

/// [B, S, D] is divided in row-major order, and a rank's tokens are one sequence.
TEST(RankSharesTest, BatchesAreCutByTokens) {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", 1}, {"inter_dim", 1}, {"dtype", "float32"}, {"activation", "relu2"}};
  call.options = {{"dp_size", 3}, {"tokens_per_rank", {1, 0, 5}}};
  call.tensors["inputs/x"] = Tensor::of({2, 3, 1}, std::vector<double>{0, 1, 2, 3, 4, 5});
  const RankShares ranks(call, 3, port_outputs(call, {}));
  const auto share = [&](std::size_t r) { return ranks.call(r).tensors.at("inputs/x"); };
  EXPECT_EQ(share(0), Tensor::of({1, 1, 1}, std::vector<double>{0}));
  EXPECT_EQ(share(1), Tensor(DType::float64, {1, 0, 1}));
  EXPECT_EQ(share(2), Tensor::of({1, 5, 1}, std::vector<double>{1, 2, 3, 4, 5}));
}

TEST(RankSharesTest, WhatCannotBeDividedIsSaid) {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", 1}, {"inter_dim", 1}, {"dtype", "float32"}, {"activation", "relu2"}};
  call.options = {{"dp_size", 2}, {"tokens_per_rank", {1, 1}}};
  call.tensors["inputs/x"] = Tensor(DType::float32, {3, 1});
  EXPECT_THROW(RankShares(call, 2, {}), InputError);
}

}  // namespace
}  // namespace moeref
