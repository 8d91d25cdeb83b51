// Calls too large for the reference: what a reduced call gives is the whole call's, honest ports pass the
// verdict by samples, and wrong elements at an edge, in a hidden unit and in the second call are found.
#include "reference_cpu/verdict/sampled.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/call/tokens.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/random_call.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/verdict/reduced_call.hpp"

namespace moeref {
namespace {

constexpr Component kReducible[] = {Component::gate, Component::mlp, Component::experts, Component::moe};

/// Every result of the reduced call is the whole call's, with its bound.
void expect_same_part(const ReducedCall& reduced, const Evaluation& whole, const Evaluation& part) {
  for (const auto& [name, place] : reduced.results) {
    SCOPED_TRACE(name);
    const BoundedTensor &w = whole.results.at(name), &p = part.results.at(name);
    for (std::int64_t i = 0; i < place.in_whole.size(); ++i) {
      const auto at = static_cast<std::size_t>(place.in_whole.whole_index(i));
      const auto in = static_cast<std::size_t>(place.first + i);
      ASSERT_TRUE(w.value[at] == p.value[in] || (std::isnan(w.value[at]) && std::isnan(p.value[in])))
          << i << ": " << w.value[at] << " and " << p.value[in];
      if (std::isfinite(w.bound[at])) {
        ASSERT_NEAR(w.bound[at], p.bound[in], 1e-6 * w.bound[at]) << i;
      }
    }
  }
}

NamedTensors ids_in(const Call& call, const Evaluation& whole) {
  if (find(call.tensors, "inputs/indices")) return {{"ids", call.tensors.at("inputs/indices")}};
  const BoundedTensor& ids = whole.results.at("outputs/indices");
  Tensor out(DType::int64, ids.shape);
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, ids.value[static_cast<std::size_t>(i)]);
  return {{"ids", out}};
}

TEST(ReducedCallTest, CodesOfWeightsAreJudgedWhole) {
  for (const Component component : {Component::experts, Component::moe}) {
    Call call = random_call(component, DType::float32, 3, Numbers::ordinary);
    call.options = nlohmann::json::object();
    call.config["weight_format"] = "none";
    EXPECT_TRUE(can_be_reduced(call));
    call.config["weight_format"] = "fp8_e4m3_block128";
    EXPECT_FALSE(can_be_reduced(call));
  }
}

TEST(ReducedCallTest, CallsThatDropSlotsAreJudgedWhole) {
  for (const Component component : {Component::gate, Component::experts, Component::moe}) {
    Call call = random_call(component, DType::float32, 3, Numbers::ordinary);
    call.options = nlohmann::json::object();
    call.config.erase("capacity_factor");
    call.config["expert_capacity"] = 2;
    EXPECT_EQ(can_be_reduced(call), component == Component::experts);
  }
}

TEST(ReducedCallTest, ItsResultsAreTheWholeCalls) {
  int reduced = 0;
  for (const Component component : kReducible)
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64})
      for (std::uint64_t seed = 0; seed < 40; ++seed) {
        Call call = random_call(component, dtype, seed, Numbers::ordinary);
        if (!can_be_reduced(call) || token_count(call) == 0) continue;
        // The loss is of all tokens; a reduced call has none.
        if (component != Component::mlp) leave_out_losses(call.config);
        call.tensors.erase("inputs/accumulated_expert_load");
        SCOPED_TRACE(describe(call));
        ++reduced;
        const Evaluation whole = evaluate(call);
        const std::int64_t tokens = token_count(call);
        const std::vector<std::int64_t> some{tokens / 2, tokens - 1};
        const ReducedCall rows = reduce_to_tokens(call, std::span(some).subspan(tokens > 1 ? 0 : 1));
        expect_same_part(rows, whole, evaluate(rows.call));
        if (component == Component::gate) continue;
        if (component == Component::mlp) {
          const std::int64_t width = parse_mlp_config(call.config).inter_dim;
          const ReducedCall units = reduce_mlp_to_units(call, {width / 2});
          expect_same_part(units, whole, evaluate(units.call));
          continue;
        }
        const MoEConfig c = parse_moe_config(call.config);
        const NamedTensors ids = ids_in(call, whole);
        const std::vector<bool> live = live_tokens(call);
        const Tensor& of = ids.at("ids");
        for (std::int64_t slot = 0; slot < of.size(); ++slot)
          if (of[slot] >= 0.0 && live[static_cast<std::size_t>(slot / of.extent(1))]) {
            const ReducedCall one =
                reduce_to_expert(call, of, static_cast<std::int64_t>(of[slot]), {c.moe_inter_dim - 1});
            expect_same_part(one, whole, evaluate(one.call));
            break;
          }
        if (component == Component::moe && c.n_shared_experts > 0) {
          const ReducedCall shared = reduce_to_shared_units(call, {0});
          expect_same_part(shared, whole, evaluate(shared.call));
        }
      }
  EXPECT_GT(reduced, 200);
}

/// Wide enough for an inside and edges; the eager port is slow.
constexpr std::int64_t kDim = 24, kInter = 18, kMlp = 34, kManyTokens = 140;

/// A layer of these widths with normal numbers.
Call wide_call(Component component, DType dtype, std::int64_t tokens, std::uint64_t seed) {
  MoEConfig c = small_config(7, 2, kDim, kInter);
  c.dtype = dtype;
  c.n_shared_experts = 1;
  c.shared_expert_gate = c.norm_topk_prob = c.softmax_before_topk = true;
  c.aux_loss_coeff = 0.01;
  Call call = small_call(component, c, {}, true);
  if (component == Component::mlp) {
    MLPConfig m;
    m.dim = kDim;
    m.inter_dim = kMlp;
    m.dtype = dtype;
    call.config = to_json(m);
  }
  const Shape shape{tokens};
  for (const TensorSpec& spec : signature(component, call.config, call.options, shape, true).inputs) {
    if (!spec.required) continue;
    Tensor& out = call.tensors[spec.name] = Tensor(spec.dtype, spec.shape);
    const CounterGenerator random(seed, spec.name);
    const double scale = spec.name.starts_with("params/") ? 0.1 : spec.name == "inputs/weights" ? 0.25 : 1.0;
    for (std::int64_t i = 0; i < out.size(); ++i) {
      const auto at = static_cast<std::uint64_t>(i);
      // Two different experts of the first six: the last has no token.
      const std::int64_t slot = i % 2, first = static_cast<std::int64_t>(random.integer(at / 2 * 2, 3));
      out.set(i,
              spec.dtype == DType::int64 ? static_cast<double>(first + 3 * slot) : scale * random.normal(at));
    }
  }
  return call;
}

/// Results of two calls of a port, as the verdict sees them.
struct Answers {
  Call call;
  NamedTensors dense, sparse, copies;

  Answers(Implementation& port, Call whole) : call(std::move(whole)), dense(port.run(call)) {
    ask_again(port);
  }
  /// The second and the third call, which follow from the answer to the first.
  void ask_again(Implementation& port) {
    const SampledJudge judge(call, dense, size());
    sparse = port.run(judge.sparse_call());
    copies = port.run(judge.copies_call());
  }
  static SampleSize size() { return {.tokens = 8, .experts = 3, .units = 3}; }
  SampledVerdict judge() const {
    return SampledJudge(call, dense, size()).judge(&sparse, &copies, {.ambiguity_ceiling = 1.0});
  }
};

TEST(SampledTest, HonestPortsPass) {
  for (const Component component : kReducible)
    for (const DType dtype : {DType::float32, DType::bfloat16})
      for (const bool fused : {false, true})
        for (std::uint64_t seed = 1; seed <= 2; ++seed) {
          eager::EagerPort port({fused, seed % 2 ? eager::Order::forward : eager::Order::pairwise, fused});
          const SampledVerdict v = Answers(port, wide_call(component, dtype, kManyTokens, seed)).judge();
          const TensorVerdict* first = v.verdict.first_failure();
          ASSERT_EQ(first, nullptr) << name(component) << " " << name(dtype) << " " << first->tensor << " "
                                    << first->index << " " << first->finding;
          EXPECT_EQ(v.tokens, 8);
          EXPECT_GT(v.judged, 0);
          EXPECT_LT(v.judged, v.elements);
        }
}

struct Wrong {
  const char* name;
  Component component;
  void (*put)(Answers& answers);
  const char* tensor;
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.name; }

void change(Tensor& tensor, std::int64_t index) { tensor.set(index, 1.25 * tensor[index] + 0.5); }

constexpr Wrong kWrong[] = {
    {"last_row_of_y", Component::experts,
     [](Answers& a) { change(a.dense.at("outputs/y"), a.dense.at("outputs/y").size() - 1); }, "outputs/y"},
    {"row_after_a_power_of_two", Component::moe,
     [](Answers& a) { change(a.dense.at("outputs/y"), 128 * kDim + 5); }, "outputs/y"},
    {"row_of_zeros", Component::mlp,
     [](Answers& a) {
       for (std::int64_t i = 0; i < kDim; ++i) a.dense.at("outputs/y").set(77 * kDim + i, 0.0);
     },
     "outputs/y"},
    {"row_of_x_gradient", Component::mlp, [](Answers& a) { change(a.dense.at("grads/x"), 64 * kDim); },
     "grads/x"},
    {"hidden_unit_of_an_expert", Component::experts,
     [](Answers& a) {
       Tensor& grad = a.dense.at("grads/down_projs");
       for (std::int64_t i = (kInter - 1) * kDim; i < kInter * kDim; ++i) grad.set(i, 0.0);
     },
     "grads/down_projs"},
    {"gate_column_of_an_expert", Component::moe,
     [](Answers& a) {
       Tensor& grad = a.dense.at("grads/experts.gate_and_up_projs");
       for (std::int64_t i = 0; i < grad.size(); i += 2 * kInter) grad.set(i, 2.0 * grad[i]);
     },
     "grads/experts.gate_and_up_projs"},
    {"hidden_unit_of_the_mlp", Component::mlp,
     [](Answers& a) { change(a.dense.at("grads/down_proj.weight"), kMlp - 1); }, "grads/down_proj.weight"},
    {"hidden_unit_of_shared_experts", Component::moe,
     [](Answers& a) { change(a.dense.at("grads/shared_experts.up_proj.weight"), (kInter - 1) * kDim + 1); },
     "grads/shared_experts.up_proj.weight"},
    {"gradient_of_an_expert_without_tokens", Component::experts,
     [](Answers& a) {
       Tensor& grad = a.dense.at("grads/gate_and_up_projs");
       grad.set(grad.size() - 7, 1e-30);
     },
     "grads/gate_and_up_projs"},
    {"element_of_the_second_calls_gradients", Component::moe,
     [](Answers& a) { change(a.sparse.at("grads/gate.weight"), 3 * kDim + 11); }, "grads/gate.weight"},
    {"token_without_cotangent", Component::mlp,
     [](Answers& a) {
       const SampledJudge judge(a.call, a.dense, Answers::size());
       std::int64_t silent = 0;
       while (std::ranges::find(judge.tokens(), silent) != judge.tokens().end()) ++silent;
       a.sparse.at("grads/x").set(silent * kDim + 3, 1e-20);
     },
     "grads/x"},
    {"element_of_the_third_calls_output", Component::moe,
     [](Answers& a) { change(a.copies.at("outputs/y"), 93 * kDim + 11); }, "outputs/y"},
    {"expert_of_the_third_call", Component::gate,
     [](Answers& a) {
       Tensor& ids = a.copies.at("outputs/indices");
       ids.set(2 * 57, ids[2 * 57] == 6.0 ? 5.0 : ids[2 * 57 + 1] == 6.0 ? 5.0 : 6.0);
     },
     "outputs/indices"},
    {"load_of_one_more", Component::gate,
     [](Answers& a) { a.dense.at("outputs/expert_load").set(2, a.dense.at("outputs/expert_load")[2] + 1.0); },
     "outputs/expert_load"},
    {"id_out_of_range", Component::gate, [](Answers& a) { a.dense.at("outputs/indices").set(173, 7.0); },
     "outputs/indices"},
    {"nothing_written", Component::experts, [](Answers& a) { a.dense.erase("grads/weights"); },
     "grads/weights"},
};

class WrongSampleTest : public testing::TestWithParam<Wrong> {};

TEST_P(WrongSampleTest, IsFound) {
  eager::EagerPort port({true, eager::Order::forward, true});
  Answers answers(port, wide_call(GetParam().component, DType::float32, kManyTokens, 3));
  ASSERT_EQ(answers.judge().verdict.first_failure(), nullptr);
  GetParam().put(answers);
  // The sample changes with the answer, so the other calls are made for the new one, with the error where it
  // is planted there.
  if (std::string(GetParam().name).find("second") == std::string::npos &&
      std::string(GetParam().name).find("third") == std::string::npos &&
      std::string(GetParam().name).find("cotangent") == std::string::npos)
    answers.ask_again(port);
  const SampledVerdict v = answers.judge();
  EXPECT_EQ(v.verdict.verdict, Verdict::fail);
  const TensorVerdict* first = v.verdict.first_failure();
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->tensor, GetParam().tensor) << first->finding;
}

INSTANTIATE_TEST_SUITE_P(All, WrongSampleTest, testing::ValuesIn(kWrong),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SampledTest, TheSampleComesFromTheAnswerAndHoldsTheEdges) {
  eager::EagerPort port({true, eager::Order::forward, true});
  Answers answers(port, wide_call(Component::mlp, DType::float32, 500, 3));
  const auto sample = [&] { return SampledJudge(answers.call, answers.dense, Answers::size()).tokens(); };
  const std::vector<std::int64_t> before = sample();
  for (const std::int64_t edge : {0, 31, 32, 127, 128, 255, 256, 498, 499})
    EXPECT_TRUE(std::ranges::binary_search(before, edge)) << edge;
  change(answers.dense.at("outputs/y"), 123);
  EXPECT_NE(before, sample());
}

}  // namespace
}  // namespace moeref
