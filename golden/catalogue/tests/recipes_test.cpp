#include "golden/catalogue/recipes.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "golden/catalogue/presets.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"

namespace moeref {
namespace {

using nlohmann::json;

bool routes_or_has_config(const CaseSpec& spec) { return spec.component != Component::mlp; }

TEST(Recipes, AreManyAndHaveTheirOwnNames) {
  std::map<Component, int> count;
  std::set<std::string> labels;
  for (const CaseSpec& spec : recipes()) {
    ++count[spec.component];
    EXPECT_TRUE(labels.insert(label(spec)).second) << label(spec) << " comes twice";
  }
  EXPECT_GE(recipes().size(), 150u);
  for (const Component component : kComponents) EXPECT_GE(count[component], 5) << name(component);
}

TEST(Recipes, EveryOneBuilds) {
  for (const CaseSpec& spec : recipes()) {
    SCOPED_TRACE(label(spec));
    EXPECT_EQ(parse_case_spec(to_json(spec)), spec);
    Call call;
    ASSERT_NO_THROW(call = build_call(spec));
    if (spec.component != Component::init) {
      EXPECT_NO_THROW(check_inputs(call));
    }
  }
}

TEST(Recipes, NameBugsThatHaveNotes) {
  for (const CaseSpec& spec : recipes()) {
    const std::set<std::string> once(spec.flags.begin(), spec.flags.end());
    EXPECT_EQ(once.size(), spec.flags.size()) << label(spec) << " names a bug twice";
    for (const std::string& flag : spec.flags)
      EXPECT_NE(find_bug(flag), nullptr) << label(spec) << " names " << flag;
  }
}

/// Whether a port that knows no floating type but bfloat16 meets the case: nothing in it is stored in
/// another.
bool is_bfloat16_alone(const CaseSpec& spec) {
  if (spec.x_dtype) return false;
  if (spec.component == Component::mlp) return parse_mlp_config(spec.config).dtype == DType::bfloat16;
  const MoEConfig config = parse_moe_config(spec.config);
  return config.dtype == DType::bfloat16 && !config.gate_dtype && !config.router_weights_fp32;
}

// Most kernels offer bfloat16 alone, and what one case guards is lost where a port does not support that
// case.
TEST(Recipes, CarryEveryFlagTwiceAndOnceInBfloat16) {
  struct Count {
    int cases = 0, bfloat16 = 0;
  };
  std::map<std::string, Count> counts;
  for (const CaseSpec& spec : recipes())
    for (const std::string& flag : spec.flags) {
      ++counts[flag].cases;
      counts[flag].bfloat16 += is_bfloat16_alone(spec);
    }
  for (const auto& [flag, count] : counts) {
    EXPECT_GE(count.cases, 2) << flag;
    const BugNote* note = find_bug(flag);
    if (note && !note->not_in_bfloat16.empty())
      EXPECT_EQ(count.bfloat16, 0) << flag << " shows in bfloat16, and its note says why it cannot";
    else
      EXPECT_GE(count.bfloat16, 1) << flag;
  }
}

TEST(Recipes, CatchEveryBugOfHighestValue) {
  std::set<std::string> caught;
  for (const CaseSpec& spec : recipes()) caught.insert(spec.flags.begin(), spec.flags.end());
  for (const BugNote& note : bug_notes())
    if (note.highest_value) {
      EXPECT_TRUE(caught.contains(note.id)) << note.id << ": " << note.wrong;
    }
}

// Every field of MoEConfig and of the call options takes two values or more, and every name of an enumeration
// is there.
TEST(Recipes, CoverEveryConfigField) {
  std::map<std::string, std::set<json>> values;
  const json defaults = full_json(MoEConfig{});
  for (const CaseSpec& spec : recipes()) {
    if (!routes_or_has_config(spec)) continue;
    json whole = defaults;  // of a field that the config leaves out
    whole.update(spec.config);
    for (const auto& [field, value] : whole.items()) values[field].insert(value);
  }
  EXPECT_EQ(values.size(), defaults.size());
  for (const auto& [field, seen] : values)
    EXPECT_GE(seen.size(), 2u) << field << " is always " << *seen.begin();
  EXPECT_EQ(values["score_func"].size(), 5u);
  EXPECT_EQ(values["expert_activation"].size(), kActivations.size());
  EXPECT_EQ(values["dtype"].size(), 4u);
}

TEST(Recipes, CoverEveryDtypeOfEveryComponent) {
  for (const Component component : {Component::gate, Component::aux_loss, Component::bias_update,
                                    Component::mlp, Component::experts, Component::moe, Component::init}) {
    std::set<json> dtypes;
    for (const CaseSpec& spec : recipes())
      if (spec.component == component) dtypes.insert(spec.config.value("dtype", "bfloat16"));
    EXPECT_EQ(dtypes.size(), 4u) << name(component);
  }
}

/// Whether a call is in an input bucket of the property tests.
struct Bucket {
  const char* name;
  std::function<bool(const CaseSpec&, const Call&)> holds;
};

std::int64_t tokens_of(const CaseSpec& spec) { return element_count(spec.tokens); }
bool given(const CaseSpec& spec, DataRole role, std::string_view kind) {
  return choice_of(spec.data, role).kind == kind;
}
bool routed(const CaseSpec& spec) {
  return spec.component == Component::gate || spec.component == Component::moe;
}

bool an_expert_is_empty(const CaseSpec& spec, const Call& call) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids || spec.component != Component::experts) return false;
  std::set<double> seen;
  for (std::int64_t i = 0; i < ids->size(); ++i) seen.insert((*ids)[i]);
  seen.erase(-1.0);
  return static_cast<std::int64_t>(seen.size()) < spec.config["n_routed_experts"].get<std::int64_t>();
}

const std::vector<Bucket>& buckets() {
  static const std::vector<Bucket> all{
      {"empty expert", an_expert_is_empty},
      {"exact ties",
       [](const CaseSpec& s, const Call&) {
         return routed(s) && s.margin == 0.0 && given(s, DataRole::gate_weight, "levels");
       }},
      {"negative biased scores",
       [](const CaseSpec& s, const Call&) {
         return routed(s) && choice_of(s.data, DataRole::correction_bias).kind == "normal" &&
                choice_of(s.data, DataRole::correction_bias)["mean"] < -1.0;
       }},
      {"k = 1", [](const CaseSpec& s, const Call&) { return s.config.value("n_activated_experts", 0) == 1; }},
      {"k = E",
       [](const CaseSpec& s, const Call&) {
         return s.config.value("n_activated_experts", 0) > 1 &&
                s.config["n_activated_experts"] == s.config["n_routed_experts"];
       }},
      {"T = 0", [](const CaseSpec& s, const Call&) { return !s.tokens.empty() && tokens_of(s) == 0; }},
      {"T = 1", [](const CaseSpec& s, const Call&) { return !s.tokens.empty() && tokens_of(s) == 1; }},
      {"all masked", [](const CaseSpec& s, const Call&) { return given(s, DataRole::mask, "all"); }},
      {"a rank without tokens",
       [](const CaseSpec& s, const Call&) {
         const json counts = s.options.value("tokens_per_rank", json::array());
         return std::ranges::any_of(counts, [](const json& n) { return n == 0; });
       }},
      {"duplicate ids",
       [](const CaseSpec& s, const Call&) { return given(s, DataRole::indices, "duplicates"); }},
      {"NaN in one token",
       [](const CaseSpec& s, const Call&) { return given(s, DataRole::x, "nan_row") && !s.backward; }},
      {"activations beyond the clamp",
       [](const CaseSpec& s, const Call&) {
         return s.config.value("swiglu_limit", 0.0) > 0.0 || s.config.value("activation_limit", 7.0) < 7.0;
       }},
      {"slots of -1",
       [](const CaseSpec& s, const Call&) { return given(s, DataRole::indices, "absent_slots"); }},
      {"replay", [](const CaseSpec& s, const Call&) { return !given(s, DataRole::replay, "absent"); }},
  };
  return all;
}

TEST(Recipes, FillEveryBucket) {
  for (const Bucket& bucket : buckets()) {
    int count = 0;
    for (const CaseSpec& spec : recipes()) {
      // The data of the others follow from the spec alone.
      const bool needs_data = std::string_view(bucket.name) == "empty expert";
      if (needs_data && spec.component != Component::experts) continue;
      count += bucket.holds(spec, needs_data ? build_call(spec) : Call{});
    }
    EXPECT_GE(count, 2) << bucket.name;
  }
}

TEST(Recipes, HaveEveryPresetInTwoDtypes) {
  for (const Preset& preset : presets())
    for (const char* suffix : {"", "_bf16"})
      EXPECT_TRUE(
          std::ranges::any_of(recipes(), [&](const CaseSpec& s) { return s.name == preset.name + suffix; }))
          << preset.name << suffix;
}

TEST(ParseRecipes, LaysCasesOverDefaultsAndPresets) {
  const auto specs =
      parse_recipes(R"({"defaults": {"component": "moe", "tokens": [4], "config": {"dtype": "float32"}},
    "cases": [{"case": "a", "preset": "qwen3_30b", "config": {"dim": 24}}, {"case": "b", "config": {"dim": 8}, "tokens": [2, 3]}]})",
                    "test.json");
  ASSERT_EQ(specs.size(), 2u);
  EXPECT_EQ(specs[0].config["score_func"], "softmax");
  EXPECT_EQ(specs[0].config["dim"], 24);
  EXPECT_EQ(specs[1].config, json::parse(R"({"dim": 8, "dtype": "float32"})"));
  EXPECT_EQ(specs[1].tokens, (Shape{2, 3}));
}

TEST(ParseRecipes, ErrorsBeginWithTheSource) {
  for (const char* text : {"{", "[]", R"({"cases": [], "more": 1})", R"({"cases": [{"case": "a"}]})",
                           R"({"cases": [{"case": "a", "component": "moe", "preset": "x", "config": {}}]})"})
    try {
      parse_recipes(text, "test.json");
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("test.json: ")) << error.what();
    }
}

TEST(NoteOfRecipe, IsEmptyWhereThereIsNone) {
  EXPECT_EQ(note_of_recipe(R"({"case": "a", "note": "All equal."})"), "All equal.");
  for (const char* text : {"", "{", "[]", "{}", R"({"note": 1})"})
    EXPECT_EQ(note_of_recipe(text), "") << text;
}

TEST(BugNotes, AreComplete) {
  EXPECT_EQ(bug_notes().size(), 132u);
  std::map<char, int> by_project;
  for (const BugNote& note : bug_notes()) ++by_project[note.id.front()];
  EXPECT_EQ(by_project, (std::map<char, int>{{'A', 52}, {'M', 33}, {'O', 47}}));
  EXPECT_EQ(std::ranges::count(bug_notes(), true, &BugNote::highest_value), 32);
}

TEST(BugNotes, ErrorsNameTheNote) {
  for (
      const char* text :
      {R"([{"id": "X1"}])",
       R"([{"id": "X1", "project": "p", "type": "t", "wrong": "w", "references": ["r"], "seen_by": ["Q"]}])"})
    try {
      parse_bug_notes(text, "bugs.json");
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("bugs.json: ")) << error.what();
      EXPECT_NE(std::string_view(error.what()).find("X1"), std::string_view::npos) << error.what();
    }
}

}  // namespace
}  // namespace moeref
