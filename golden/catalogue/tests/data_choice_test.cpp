#include "golden/catalogue/data_choice.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

DataChoice choice(DataRole role, const json& value) {
  return parse_data_choices({{std::string(name(role)), value}}).at(role);
}

std::vector<double> reals(const json& value, const Shape& shape, DType dtype = DType::float64,
                          int attempt = 0) {
  return draw_reals(choice(DataRole::x, value), {7, "inputs/x", attempt}, dtype, shape, 4).doubles();
}

std::vector<std::int64_t> ids(const json& value, std::int64_t tokens, std::int64_t k, std::int64_t experts) {
  const Tensor drawn = draw_ids(choice(DataRole::indices, value), {7, "inputs/indices"}, tokens, k, experts);
  const auto values = drawn.as<std::int64_t>();
  return {values.begin(), values.end()};
}

TEST(DataChoice, ShortAndLongForms) {
  EXPECT_EQ(choice(DataRole::x, "normal"), choice(DataRole::x, json::parse(R"({"kind": "normal"})")));
  const json text = json::parse(R"({"x": {"kind": "normal", "scale": 2.0}, "mask": "all"})");
  EXPECT_EQ(to_json(parse_data_choices(text)), text);
}

TEST(DataChoice, DefaultsComeFromTheTables) {
  EXPECT_EQ(choice(DataRole::mask, "random")["share"], 0.25);
  EXPECT_EQ(choice_of({}, DataRole::mask).kind, "absent");
  const DataChoices biases{{DataRole::biases, {"constant", {{"value", 3.0}}}}};
  EXPECT_EQ(choice_of(biases, DataRole::gate_bias), biases.at(DataRole::biases));
}

TEST(DataChoice, ErrorsNameWhatIsUnknown) {
  const auto message = [](const char* text) {
    try {
      parse_data_choices(json::parse(text));
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_NE(message(R"({"y": "normal"})").find("'y'"), std::string::npos);
  EXPECT_NE(message(R"({"x": "gaussian"})").find("'gaussian': want one of normal"), std::string::npos);
  EXPECT_NE(message(R"({"x": {"kind": "normal", "sigma": 1}})").find("'sigma': normal takes scale mean"),
            std::string::npos);
  EXPECT_NE(message(R"({"mask": {"kind": "random", "share": 2}})").find("want a number from 0.0 to 1.0"),
            std::string::npos);
  EXPECT_NE(message(R"({"mask": "normal"})").find("want one of absent none all"), std::string::npos);
  EXPECT_NE(message(R"({"x": 3})").find("want a kind"), std::string::npos);
}

TEST(DataChoice, SmallerTensorsKeepTheirValues) {
  const std::vector<double> large = reals("normal", {3, 5, 8}), small = reals("normal", {2, 4, 6});
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < 6; ++l) EXPECT_EQ(small[(i * 4 + j) * 6 + l], large[(i * 5 + j) * 8 + l]);
}

TEST(DataChoice, NamesSeedsAndAttemptsGiveOtherValues) {
  const std::vector<double> first = reals("normal", {4, 4});
  EXPECT_NE(first, reals("normal", {4, 4}, DType::float64, 1));
  const DataChoice normal = choice(DataRole::x, "normal");
  EXPECT_NE(first, draw_reals(normal, {8, "inputs/x"}, DType::float64, {4, 4}, 4).doubles());
  EXPECT_NE(first, draw_reals(normal, {7, "inputs/y"}, DType::float64, {4, 4}, 4).doubles());
}

TEST(DataChoice, ValuesAreRoundedToTheDtype) {
  for (const DType dtype : {DType::bfloat16, DType::float16, DType::float32}) {
    const std::vector<double> exact = reals("normal", {6, 6}), rounded = reals("normal", {6, 6}, dtype);
    for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(rounded[i], round_to(dtype, exact[i]));
  }
}

TEST(DataChoice, RedrawingARowLeavesTheOthers) {
  const DataChoice normal = choice(DataRole::x, "normal");
  const Tensor before = draw_reals(normal, {7, "inputs/x"}, DType::float32, {5, 4}, 1);
  Tensor after = before;
  redraw_row(normal, {7, "inputs/x", 1}, 1, 2, after);
  for (std::int64_t i = 0; i < before.size(); ++i) EXPECT_EQ(before[i] == after[i], i / 4 != 2) << i;
}

TEST(DataChoice, RealsAreWhatTheirKindSays) {
  for (const double v : reals(json::parse(R"({"kind": "integer", "limit": 2})"), {20, 20}))
    EXPECT_TRUE(v == std::floor(v) && std::abs(v) <= 2.0);
  for (const double v : reals(json::parse(R"({"kind": "uniform", "low": 1, "high": 2})"), {20, 20}))
    EXPECT_TRUE(v > 1.0 && v < 2.0);
  const std::vector<double> shares = reals("probabilities", {5, 8});
  for (std::size_t row = 0; row < 5; ++row) {
    double sum = 0.0;
    for (std::size_t i = 0; i < 8; ++i) sum += shares[row * 8 + i];
    EXPECT_NEAR(sum, 1.0, 1e-15);
  }
  const std::vector<double> hot = reals("one_hot", {4, 3});
  for (int i = 0; i < 12; ++i) EXPECT_EQ(hot[static_cast<std::size_t>(i)], i % 3 == (i / 3) % 3 ? 1.0 : 0.0);
  const std::vector<double> levels = reals("levels", {30, 30});
  EXPECT_EQ(std::set<double>(levels.begin(), levels.end()), (std::set<double>{0.0, 1.0, 2.0}));
  double squares = 0.0;
  const std::vector<double> scaled = reals("fan_in", {100, 100});
  for (const double v : scaled) squares += v * v;
  EXPECT_NEAR(squares / 1e4, 1.0 / 4.0, 0.02);  // five standard deviations
}

TEST(DataChoice, PoisonStaysInItsRow) {
  const std::vector<double> values = reals(json::parse(R"({"kind": "nan_row", "row": 2})"), {4, 6});
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isnan(values[i]), i == 2 * 6 + 3) << i;
}

TEST(DataChoice, Masks) {
  const auto masked = [](const json& value, const Shape& tokens) {
    std::string text;
    for (const bool m : draw_masked_tokens(choice(DataRole::mask, value), {7, "inputs/token_mask"}, tokens))
      text += m ? 'x' : '.';
    return text;
  };
  EXPECT_EQ(masked("all", {3}), "xxx");
  EXPECT_EQ(masked("none", {3}), "...");
  EXPECT_EQ(masked("first", {2, 3}), "x..x..");
  EXPECT_EQ(masked("last", {2, 3}), "..x..x");
  EXPECT_EQ(masked("every_second", {5}), ".x.x.");
  EXPECT_EQ(masked("suffix", {2, 4}), "...x..xx");
  EXPECT_EQ(masked("prefix", {4}), "xx..");
  EXPECT_EQ(masked(json::parse(R"({"kind": "all_but", "token": 1})"), {3}), "x.x");
  EXPECT_EQ(masked("all", {0}), "");
  const std::string random = masked("random", {400});
  EXPECT_GT(std::ranges::count(random, 'x'), 50);
  EXPECT_LT(std::ranges::count(random, 'x'), 150);
}

TEST(DataChoice, IdsAreDistinctAndInRange) {
  for (const char* kind : {"distinct", "skewed", "same", "round_robin", "last_expert"}) {
    const auto drawn = ids(kind, 30, 3, 7);
    for (std::size_t t = 0; t < 30; ++t) {
      const std::set<std::int64_t> token(drawn.begin() + static_cast<long>(3 * t),
                                         drawn.begin() + static_cast<long>(3 * t + 3));
      EXPECT_EQ(token.size(), 3u) << kind << " token " << t;
      EXPECT_TRUE(*token.begin() >= 0 && *token.rbegin() < 7) << kind;
    }
  }
}

TEST(DataChoice, IdsAreWhatTheirKindSays) {
  for (const std::int64_t id : ids("some_empty", 40, 2, 8)) EXPECT_NE(id % 3, 2);
  const auto two = ids("two", 6, 2, 8);
  EXPECT_EQ(std::set<std::int64_t>(two.begin(), two.end()), (std::set<std::int64_t>{1, 6}));
  const auto repeated = ids(json::parse(R"({"kind": "duplicates", "share": 1})"), 5, 3, 8);
  for (std::size_t t = 0; t < 5; ++t) EXPECT_EQ(repeated[3 * t], repeated[3 * t + 2]);
  const auto absent = ids("absent_slots", 40, 3, 8);
  EXPECT_TRUE(absent[0] == -1 && absent[1] == -1 && absent[2] == -1);
  EXPECT_GT(std::ranges::count(absent, -1), 15);
  const auto last = ids("last_expert", 9, 2, 8);
  for (std::size_t t = 0; t < 9; ++t) EXPECT_EQ(last[2 * t], 7);
  EXPECT_THROW(ids("some_empty", 4, 7, 8), InputError);
}

TEST(DataChoice, Loads) {
  const Tensor mixed = draw_loads(choice(DataRole::loads, "mixed"), {7, "inputs/expert_load"}, {5, 4});
  EXPECT_EQ(mixed[1 * 4 + 1], 0);
  EXPECT_EQ(mixed[2 * 4 + 0], mixed[2 * 4 + 3]);
  EXPECT_GT(mixed[3 * 4 + 1], 0);
  for (int e = 0; e < 4; ++e) EXPECT_EQ(mixed[4 * 4 + e], 0);
}

}  // namespace
}  // namespace moeref
