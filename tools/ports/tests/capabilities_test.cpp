// What ports say of themselves, and what they lack for a call.
#include "tools/ports/capabilities.hpp"

#include <gtest/gtest.h>

#include "moeref/config.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

Call mlp_call(const char* dtype) {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", 4}, {"inter_dim", 2}, {"dtype", dtype}, {"activation", "relu2"}};
  call.options = json::object();
  for (const char* name : {"inputs/x", "params/up_proj.weight"})
    call.tensors[name] = Tensor(parse_dtype(dtype), {2, 4});
  call.tensors["params/down_proj.weight"] = Tensor(parse_dtype(dtype), {4, 2});
  return call;
}

std::string refusal(json hello) {
  hello.emplace("name", "mine");
  try {
    parse_capabilities(hello);
  } catch (const InputError& error) {
    return error.what();
  }
  return "taken";
}

TEST(CapabilitiesTest, NameAloneMeansEverything) {
  const Capabilities has = parse_capabilities({{"name", "mine"}});
  EXPECT_EQ(has.components.size(), kComponents.size());
  EXPECT_EQ(has.dtypes.size(), 4u);
  EXPECT_TRUE(has.backward);
  EXPECT_TRUE(has.rounds_its_sums());
  EXPECT_FALSE(has.deterministic || has.lowest_id_first || has.batch_invariant);
  EXPECT_TRUE(parse_capabilities({{"name", "mine"}, {"batch_invariant", true}}).batch_invariant);
  EXPECT_EQ(has.products, Float32Products::float32);
  EXPECT_EQ(parse_capabilities({{"name", "mine"}, {"products", "tf32"}}).products, Float32Products::tf32);
  EXPECT_EQ(has.max_ranks, 1);
  EXPECT_EQ(has.lack(mlp_call("float16")), std::nullopt);
}

TEST(CapabilitiesTest, AConventionMustBeDeclared) {
  MoEConfig c;
  c.n_routed_experts = c.dim = c.inter_dim = c.moe_inter_dim = 4;
  c.n_activated_experts = 1;
  c.norm_eps = 0.125;
  Call call;
  call.component = Component::fake_balanced_gate;  // which has no use for it
  call.config = to_json(c);
  call.options = json::object();
  call.tensors["inputs/x"] = Tensor(DType::bfloat16, {2, 4});
  EXPECT_EQ(parse_capabilities({{"name", "mine"}}).lack(call), std::nullopt);
  call.component = Component::gate;
  EXPECT_EQ(parse_capabilities({{"name", "mine"}}).lack(call),
            "mine does not declare the convention 'norm_eps', which is 0.125 here");
  EXPECT_EQ(parse_capabilities({{"name", "mine"}, {"conventions", {"group_score", "norm_eps"}}}).lack(call),
            std::nullopt);
  EXPECT_EQ(refusal({{"conventions", "norm_eps"}}),
            "the port's 'conventions' is \"norm_eps\": want a list of texts");
}

TEST(CapabilitiesTest, WrongFieldsAreNamed) {
  EXPECT_THROW(parse_capabilities(json::object()), InputError);
  EXPECT_EQ(refusal({{"components", {"gates"}}}).substr(0, 58),
            "the port's 'components' is \"gates\": want one of gate, aux_");
  EXPECT_EQ(refusal({{"dtypes", {"int8"}}}),
            "the port's 'dtypes' is [\"int8\"]: want float32, bfloat16, float16 or float64");
  EXPECT_EQ(refusal({{"passes", "forward"}}), "the port's 'passes' is \"forward\": want a list of texts");
  EXPECT_EQ(refusal({{"passes", {"sideways"}}}),
            "the port's 'passes' is \"sideways\": want one of forward, backward");
  EXPECT_EQ(refusal({{"stages", {"logit"}}}).substr(0, 47),
            "the port's 'stages' is \"logit\": want one of log");
  EXPECT_EQ(refusal({{"ties", "first"}}), "the port's 'ties' is \"first\": want \"open\" or \"lowest_id\"");
  EXPECT_EQ(refusal({{"accumulation", "fp32"}}),
            "the port's 'accumulation' is \"fp32\": want float32, bfloat16, float16 or float64");
  EXPECT_EQ(refusal({{"deterministic", 1}}), "the port's 'deterministic' is 1: want true or false");
  EXPECT_EQ(refusal({{"batch_invariant", "yes"}}),
            "the port's 'batch_invariant' is \"yes\": want true or false");
  EXPECT_EQ(refusal({{"init_generator", "torch"}}),
            "the port's 'init_generator' is \"torch\": want \"counter\" or \"own\"");
  EXPECT_EQ(refusal({{"products", "bfloat16"}}),
            "the port's 'products' is \"bfloat16\": want \"float32\" or \"tf32\"");
  EXPECT_EQ(refusal({{"max_ranks", 0}}), "the port's 'max_ranks' is 0: want an integer of 1 or more");
  EXPECT_EQ(refusal({{"max_processes", -1}}),
            "the port's 'max_processes' is -1: want an integer of 0 or more");
  EXPECT_EQ(refusal({{"from_a_later_version", 1}, {"storage", ""}}), "taken");
}

TEST(CapabilitiesTest, LackIsSaid) {
  const Capabilities has = parse_capabilities({{"name", "mine"},
                                               {"components", {"mlp", "experts"}},
                                               {"passes", {"forward"}},
                                               {"dtypes", {"float32"}},
                                               {"max_ranks", 2}});
  Call call = mlp_call("float32");
  EXPECT_EQ(has.lack(call), std::nullopt);
  call.options["ep_size"] = 4;
  EXPECT_EQ(has.lack(call), "mine plays at most 2 ranks in one call; this one has 4");
  call = mlp_call("float32");
  call.backward = true;
  EXPECT_EQ(has.lack(call), "mine has no backward pass");
  EXPECT_EQ(has.lack(mlp_call("bfloat16")), "mine has no bfloat16");
  call = mlp_call("float32");
  call.tensors["inputs/x"] = Tensor(DType::bfloat16, {2, 4});
  EXPECT_EQ(has.lack(call), "mine has no bfloat16, in which inputs/x comes");
  call.component = Component::gate;
  EXPECT_EQ(has.lack(call), "mine has no gate");
}

TEST(CapabilitiesTest, ProcessesComeBeforeRanksInOne) {
  const auto processes = [](std::int64_t most, std::int64_t in_one, std::int64_t ranks) -> std::int64_t {
    const Capabilities has =
        parse_capabilities({{"name", "mine"}, {"max_processes", most}, {"max_ranks", in_one}});
    Call call = mlp_call("float32");
    call.options["dp_size"] = ranks;
    return has.lack(call) ? -1 : has.processes(call);
  };
  EXPECT_EQ(processes(0, 1, 1), 1);
  EXPECT_EQ(processes(4, 1, 1), 1);
  EXPECT_EQ(processes(4, 1, 4), 4);
  EXPECT_EQ(processes(4, 8, 4), 4);
  EXPECT_EQ(processes(4, 8, 8), 1);
  EXPECT_EQ(processes(0, 8, 8), 1);
  EXPECT_EQ(processes(4, 4, 8), -1);
  Call call = mlp_call("float32");
  call.options["dp_size"] = 8;
  EXPECT_EQ(parse_capabilities({{"name", "mine"}, {"max_processes", 4}}).lack(call),
            "mine has at most 4 processes per call, and plays at most 1 ranks in one; this call has 8");
}

}  // namespace
}  // namespace moeref
