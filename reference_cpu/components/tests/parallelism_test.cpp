// parallelism.hpp: results of several ranks are those of one, bit for bit in integer data and within bounds
// otherwise.
#include "reference_cpu/components/parallelism.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/tests/random_call.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

using Offsets = std::vector<std::int64_t>;

TEST(RankOffsets, EvenGivenAndWrong) {
  EXPECT_EQ(rank_offsets(4, {}, 10), (Offsets{0, 3, 6, 8, 10}));
  EXPECT_EQ(rank_offsets(3, {}, 2), (Offsets{0, 1, 2, 2}));
  EXPECT_EQ(rank_offsets(3, {5, 0, 1}, 6), (Offsets{0, 5, 5, 6}));
  EXPECT_EQ(rank_offsets(1, {}, 0), (Offsets{0, 0}));
  EXPECT_THROW(rank_offsets(2, {1, 2}, 4), InputError);
}

TEST(RankExperts, InOrder) {
  const MoEConfig c = small_config(8, 1);
  EXPECT_EQ(rank_experts(c, 2, 4).first, 4);
  EXPECT_EQ(rank_experts(c, 2, 4).count, 2);
  EXPECT_THROW(rank_experts(c, 0, 3), InputError);
}

/// Small integers through relu2: every sum is exact in any order.
Call integer_call(Component component, std::int64_t tokens) {
  MoEConfig c = small_config(8, 3, 4, 3);
  c.expert_activation = ActivationKind::relu2;
  c.expert_bias = true;
  Call call = small_call(component, c, {}, true);
  std::uint64_t state = 5;
  const auto draw = [&](std::int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int64_t>((state >> 33) % static_cast<std::uint64_t>(n));
  };
  for (const TensorSpec& spec : signature(component, call.config, call.options, {tokens}, true).inputs) {
    if (spec.name.find("replay") != std::string::npos) continue;
    Tensor tensor(spec.dtype, spec.shape);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      if (spec.dtype == DType::boolean)
        tensor.set(i, draw(4) > 0 ? 1.0 : 0.0);
      else if (spec.dtype == DType::int64)
        tensor.set(i, static_cast<double>(draw(9) - 1));
      else if (spec.name == "inputs/weights")
        tensor.set(i, std::ldexp(1.0, static_cast<int>(-draw(3))));
      else
        tensor.set(i, static_cast<double>(draw(5) - 2));
    }
    call.tensors[spec.name] = std::move(tensor);
  }
  return call;
}

std::vector<nlohmann::json> spreads(std::int64_t tokens) {
  std::vector<nlohmann::json> out;
  for (const char* exchange : {"all_gather", "all_to_all"})
    for (const std::int64_t ranks : {1, 2, 4, 8}) {
      out.push_back({{"ep_size", ranks}, {"exchange", exchange}});
      if (ranks == 1) continue;
      Offsets all_on_one(static_cast<std::size_t>(ranks), 0), uneven(static_cast<std::size_t>(ranks), 0);
      all_on_one[1] = tokens;
      uneven[0] = tokens - tokens / 3;
      uneven.back() = tokens / 3;
      out.push_back({{"ep_size", ranks}, {"exchange", exchange}, {"tokens_per_rank", all_on_one}});
      out.push_back({{"ep_size", ranks}, {"exchange", exchange}, {"tokens_per_rank", uneven}});
    }
  return out;
}

TEST(ExpertParallel, IntegerDataIsTheSameToTheLastBit) {
  for (const std::int64_t tokens : {0, 1, 11}) {
    Call call = integer_call(Component::experts, tokens);
    const Evaluation one = evaluate(call);
    for (const nlohmann::json& options : spreads(tokens)) {
      call.options = options;
      const Evaluation many = evaluate(call);
      for (const auto& [name, want] : one.results) {
        if (name.starts_with("stages/")) continue;
        ASSERT_TRUE(many.results.contains(name)) << name;
        EXPECT_EQ(many.results.at(name).value, want.value) << name << " " << options.dump();
        EXPECT_EQ(many.results.at(name).shape, want.shape) << name;
      }
    }
  }
}

TEST(ExpertParallel, RealDataAgreesAndHasTheBoundsOfAnyOrder) {
  std::int64_t compared = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed)
    for (const Component component : {Component::experts, Component::moe}) {
      Call call = random_call(component, DType::float32, 900 + seed);
      const MoEConfig c = parse_moe_config(call.config);
      // A gradient in a coarser type than the layer's is rounded on each rank: one rank knows no such bound.
      if (c.gate_dtype) continue;
      // Ranks drop slots, and balance choices, among their own tokens: one rank has others.
      if (component == Component::moe && (c.drops_slots() || c.balances_selection(true))) continue;
      for (const char* field : {"ep_size", "cp_size", "exchange"}) call.options.erase(field);
      const Evaluation one = evaluate(call);
      for (const std::int64_t ranks : {2, 4}) {
        if (c.experts_with_weights() % ranks != 0) continue;
        call.options["ep_size"] = ranks;
        call.options["exchange"] = seed % 2 ? "all_to_all" : "all_gather";
        const Evaluation many = evaluate(call);
        for (const auto& [name, want] : one.results) {
          if (name.starts_with("stages/")) continue;
          const BoundedTensor& got = many.results.at(name);
          for (std::size_t i = 0; i < want.value.size(); ++i) {
            if (!std::isfinite(want.bound[i])) continue;
            ASSERT_NEAR(got.value[i], want.value[i], 1e-6 * want.bound[i] + 1e-300)
                << name << " " << i << " seed " << seed;
            // Slots on other ranks count as terms even where they are zero.
            ASSERT_GE(got.bound[i], 0.999 * want.bound[i]) << name << " " << i << " seed " << seed;
            ASSERT_LE(got.bound[i], 8.0 * want.bound[i]) << name << " " << i << " seed " << seed;
            ++compared;
          }
        }
      }
    }
  EXPECT_GT(compared, 5000);
}

TEST(ExpertParallel, TheWholeLayerToo) {
  Call call = integer_call(Component::moe, 9);
  const Evaluation one = evaluate(call);
  for (const nlohmann::json& options : spreads(9)) {
    call.options = options;
    const Evaluation many = evaluate(call);
    for (const char* name : {"outputs/y", "grads/x", "grads/gate.weight", "grads/experts.down_projs"}) {
      const auto& want = one.results.at(name);
      for (std::size_t i = 0; i < want.value.size(); ++i)
        ASSERT_NEAR(many.results.at(name).value[i], want.value[i], 1e-12 * (1.0 + std::abs(want.value[i])))
            << name;
    }
  }
}

TEST(ExpertParallel, Errors) {
  Call call = integer_call(Component::experts, 4);
  call.options = {{"ep_size", 3}};
  EXPECT_THROW(evaluate(call), InputError);
  call.options = {{"ep_size", 2}, {"tokens_per_rank", {1, 2}}};
  EXPECT_THROW(evaluate(call), InputError);
}

TEST(ContextParallel, TheAuxiliaryLossesAreThoseOfAllTokens) {
  MoEConfig c = small_config(2, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.aux_loss_coeff = c.batch_loss_coeff = c.global_loss_coeff = 1.0;
  Call call = small_call(Component::gate, c,
                         {{"inputs/x", tensor({4, 1}, {1, 2, -3, 4})},
                          {"params/weight", tensor({2, 1}, {1, -1})},
                          {"inputs/accumulated_expert_load", ids({2}, {1, 7})},
                          {"cotangents/weights", tensor({4, 1}, {0, 0, 0, 0})}},
                         true);
  const Evaluation one = evaluate(call);
  for (const auto& [ranks, tokens] :
       {std::pair{2, Offsets{}}, {4, Offsets{}}, {2, Offsets{4, 0}}, {4, Offsets{0, 1, 0, 3}}}) {
    call.options = {{"cp_size", ranks}, {"tokens_per_rank", tokens}};
    const Evaluation many = evaluate(call);
    for (const char* loss : {"outputs/aux_loss", "outputs/batch_loss", "outputs/global_loss"})
      EXPECT_NEAR(values_of(many, loss)[0], values_of(one, loss)[0], 1e-15) << loss;
    EXPECT_NEAR(values_of(many, "grads/weight")[0], values_of(one, "grads/weight")[0], 1e-15);
  }
}

}  // namespace
}  // namespace moeref
