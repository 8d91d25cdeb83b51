// Drawn cases: what they keep is what the whole call gives, and other inputs are told.
#include "golden/catalogue/drawn_case.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "moeref/error.hpp"
#include "moeref/reference.hpp"

namespace moeref {
namespace {

CaseSpec small_drawn_spec(const char* component) {
  const nlohmann::json layer{{"n_routed_experts", 6},
                             {"n_shared_experts", 1},
                             {"n_activated_experts", 2},
                             {"n_expert_groups", 1},
                             {"n_limited_groups", 1},
                             {"train_gate", true},
                             {"gate_bias_update_factor", 0.0},
                             {"aux_loss_coeff", 0.0},
                             {"score_func", "softmax"},
                             {"route_scale", 1.0},
                             {"dim", 24},
                             {"inter_dim", 32},
                             {"moe_inter_dim", 10},
                             {"norm_topk_prob", true},
                             {"dtype", "float32"}};
  const nlohmann::json mlp{{"dim", 24}, {"inter_dim", 32}, {"dtype", "float32"}, {"bias", true}};
  const bool is_mlp = std::string(component) == "mlp";
  return parse_case_spec({{"component", component},
                          {"case", "small"},
                          {"tokens", {40}},
                          {"backward", true},
                          {"seed", 5},
                          {"config", is_mlp ? mlp : layer}});
}

class DrawnCaseTest : public testing::TestWithParam<const char*> {};

TEST_P(DrawnCaseTest, SamplesAreElementsOfTheWholeCallsResults) {
  const DrawnCase drawn = make_drawn_case(small_drawn_spec(GetParam()));
  const Evaluation whole = evaluate(draw_call(drawn));
  ASSERT_TRUE(drawn.samples.contains("outputs/y"));
  ASSERT_TRUE(drawn.samples.contains("grads/x"));
  for (const auto& [name, samples] : drawn.samples) {
    const BoundedTensor& result = whole.results.at(name);
    // Biases have one element per sampled unit.
    EXPECT_GT(samples.size(), result.shape.size() > 1 ? 10u : 2u) << name;
    for (const ResultSample& sample : samples) {
      const auto at = static_cast<std::size_t>(sample.index);
      EXPECT_EQ(sample.value, result.value.at(at)) << name << " " << at;
      EXPECT_NEAR(sample.bound, result.bound.at(at), 1e-6 * result.bound.at(at)) << name << " " << at;
    }
  }
}

TEST_P(DrawnCaseTest, TextGivesTheSameCaseBack) {
  const DrawnCase drawn = make_drawn_case(small_drawn_spec(GetParam()));
  const auto file = std::filesystem::temp_directory_path() /
                    ("moeref_" + std::string(GetParam()) + drawn_file_name(drawn.spec));
  std::ofstream(file) << to_text(drawn);
  EXPECT_TRUE(is_drawn_case(file));
  EXPECT_LT(std::filesystem::file_size(file), 100u << 10);
  EXPECT_EQ(read_drawn_case(file), drawn);
  std::filesystem::remove(file);
}

TEST_P(DrawnCaseTest, OtherInputsAreTold) {
  DrawnCase drawn = make_drawn_case(small_drawn_spec(GetParam()));
  drawn.hashes.at("inputs/x").back() = drawn.hashes.at("inputs/x").back() == '0' ? '1' : '0';
  try {
    draw_call(drawn);
    FAIL() << "nothing was said";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("'inputs/x' is drawn otherwise here"), std::string::npos)
        << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(All, DrawnCaseTest, testing::Values("experts", "mlp", "moe"));

TEST(DrawnCaseTest, BadTextsAreOneLineWithTheFile) {
  const auto file = std::filesystem::temp_directory_path() / "moeref_bad.drawn.json";
  for (const char* text : {"", "{}", "{\"moeref_drawn_case\": 2}", "[1, 2]"}) {
    std::ofstream(file) << text;
    try {
      read_drawn_case(file);
      FAIL() << text;
    } catch (const InputError& error) {
      const std::string line = error.what();
      EXPECT_EQ(line.find(file.string() + ": "), 0u) << line;
      EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    }
  }
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace moeref
