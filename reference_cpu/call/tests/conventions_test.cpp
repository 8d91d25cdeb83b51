// conventions.hpp: no field beyond the documented system's can be off its default without being seen.
#include "reference_cpu/call/conventions.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "reference_cpu/call/config_fields.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

Call call_of(Component component, const MoEConfig& c) {
  Call call;
  call.component = component;
  call.config = to_json(c);
  call.options = nlohmann::json::object();
  return call;
}

TEST(Conventions, EachOneOffItsDefaultIsNamedUnlessDeclared) {
  std::size_t seen = 0;
  const MoEConfig defaults = small_config(8, 3, 32, 32);  // widths of whole blocks of quantised weights
  visit_config_fields(defaults, [&](const auto& row, const auto& fallback) {
    if constexpr (std::remove_cvref_t<decltype(row)>::drawn) {
      if (!row.convention) return;
      for (const auto& value : row.draw.values) {
        ASSERT_FALSE(value == fallback) << row.name;
        MoEConfig c = defaults;
        c.moe_latent_size = 32;
        c.*row.member = value;
        if (c.bias_update_rule == BiasUpdateRule::quantile) c.score_func = ScoreFunc::sigmoid;
        const std::string name(row.name);
        // Activations are quantised beside quantised weights alone, and an accumulator is named of both: such
        // a port knows these too.
        std::vector<std::string> known;
        if (c.accumulator != Accumulator::float32) {
          c.activation_format = ActivationFormat::fp8_e4m3_group128;
          known = {"activation_format"};
        }
        if (c.quantises_activations()) {
          c.weight_format = WeightFormat::fp8_e4m3_block128;
          known.push_back("weight_format");
        }
        for (const Component component : kComponents) {
          const Call call = call_of(component, c);
          if (component == Component::mlp) continue;  // it has a config of its own
          const auto refusal = undeclared_convention(call, "mine", known);
          EXPECT_EQ(refusal.has_value(), reads(row.readers, component)) << name;
          if (refusal) {
            EXPECT_EQ(*refusal, "mine does not declare the convention '" + name + "', which is " +
                                    call.config.at(name).dump() + " here");
          }
          std::vector<std::string> declared = known;
          declared.push_back(name);
          EXPECT_FALSE(undeclared_convention(call, "mine", declared)) << name;
        }
      }
      ++seen;
    }
  });
  EXPECT_EQ(seen, all_conventions().size() - (kActivations.size() - kDocumentedActivations))
      << "every convention's row says how it is drawn";
}

TEST(Conventions, AnActivationOfDenseExpertsToo) {
  MoEConfig c = small_config(8, 2);
  c.n_shared_experts = 1;
  c.shared_expert_activation = ActivationKind::situ;
  EXPECT_TRUE(undeclared_convention(call_of(Component::moe, c), "mine", {}));
  EXPECT_FALSE(undeclared_convention(call_of(Component::experts, c), "mine", {}));
  EXPECT_FALSE(undeclared_convention(call_of(Component::moe, c), "mine", std::vector<std::string>{"situ"}));
  const auto mlp = [](const nlohmann::json& fields) {
    Call out{Component::mlp, {{"dim", 2}, {"inter_dim", 2}}, nlohmann::json::object(), {}, false};
    out.config.update(fields);
    return out;
  };
  using Names = std::vector<std::string_view>;
  EXPECT_EQ(conventions_of(mlp(nlohmann::json::object())), Names{});
  EXPECT_EQ(conventions_of(mlp({{"activation", "relu2"}})), Names{});
  EXPECT_EQ(conventions_of(mlp({{"activation", "situ"}, {"situ_beta", 1.0}})), (Names{"situ_beta", "situ"}));
}

TEST(Conventions, AnActivationIsDeclaredByItsName) {
  for (const ActivationFacts& row : kActivations) {
    MoEConfig c = small_config(8, 2);
    c.expert_activation = row.kind;
    const std::string name(row.name);
    for (const Component component : {Component::gate, Component::experts, Component::moe, Component::init}) {
      const auto refusal = undeclared_convention(call_of(component, c), "mine", {});
      EXPECT_EQ(refusal.has_value(), row.convention && has_routed_experts(component)) << name;
      if (refusal) {
        EXPECT_EQ(*refusal,
                  "mine does not declare the convention '" + name + "', which is the activation here");
      }
      EXPECT_FALSE(undeclared_convention(call_of(component, c), "mine", std::vector<std::string>{name}));
    }
  }
}

TEST(Conventions, TheDocumentedSystemHasNone) {
  EXPECT_TRUE(conventions_of(call_of(Component::moe, small_config(8, 2))).empty());
  EXPECT_FALSE(undeclared_convention(call_of(Component::gate, small_config(8, 2)), "mine", {}));
}

}  // namespace
}  // namespace moeref
