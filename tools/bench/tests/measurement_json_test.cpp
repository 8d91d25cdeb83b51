// What a port says of its times, and what it may not say.
#include "tools/bench/measurement_json.hpp"

#include <gtest/gtest.h>

#include "moeref/error.hpp"

namespace moeref::bench {
namespace {

using nlohmann::json;

Measurement full() {
  Measurement m;
  m.backward = true;
  m.median_ms = 2.0, m.least_ms = 1.5, m.most_ms = 3.0;
  m.dense_ms = 1.0, m.floor_ms = 0.5, m.memory_bytes = 1e9, m.kept_bytes = 2e9, m.least_kept_bytes = 1.9e9;
  m.imbalance = 1.2, m.kernels = "wgmma";
  m.dense_moved = 0.02, m.sm_mhz = 1500.0, m.watts = 700.0, m.celsius = 60.0;
  return m;
}

TEST(MeasurementJson, EveryFigureComesBack) {
  const Measurement m = full(), back = parse_measurement(to_json(m));
  EXPECT_TRUE(back.backward);
  EXPECT_EQ(back.median_ms, m.median_ms);
  EXPECT_EQ(back.least_ms, m.least_ms);
  EXPECT_EQ(back.most_ms, m.most_ms);
  EXPECT_EQ(back.dense_ms, m.dense_ms);
  EXPECT_EQ(back.floor_ms, m.floor_ms);
  EXPECT_EQ(back.memory_bytes, m.memory_bytes);
  EXPECT_EQ(back.kept_bytes, m.kept_bytes);
  EXPECT_EQ(back.least_kept_bytes, m.least_kept_bytes);
  EXPECT_EQ(back.imbalance, m.imbalance);
  EXPECT_EQ(back.kernels, m.kernels);
  EXPECT_EQ(back.dense_moved, m.dense_moved);
  EXPECT_EQ(back.sm_mhz, m.sm_mhz);
  EXPECT_EQ(back.watts, m.watts);
  EXPECT_EQ(back.celsius, m.celsius);
}

TEST(MeasurementJson, FiguresThatAPortHasNotAreAbsent) {
  const Measurement back =
      parse_measurement({{"pass", "forward"}, {"median_ms", 1}, {"least_ms", 1}, {"most_ms", 1}});
  EXPECT_FALSE(back.backward);
  EXPECT_FALSE(back.dense_ms || back.floor_ms || back.memory_bytes || back.kept_bytes ||
               back.least_kept_bytes || back.imbalance || back.kernels || back.dense_moved || back.sm_mhz ||
               back.watts || back.celsius);
}

TEST(MeasurementJson, ErrorsNameTheField) {
  const auto message = [](const char* field, const json& value) -> std::string {
    json answer = to_json(full());
    answer[field] = value;
    try {
      parse_measurement(answer);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message("pass", "both"), "'pass' is \"both\": want \"forward\" or \"forward+backward\"");
  EXPECT_EQ(message("median_ms", 0), "'median_ms' is 0: want milliseconds, more than 0");
  EXPECT_EQ(message("most_ms", "1"), "'most_ms' is \"1\": want milliseconds, more than 0");
  EXPECT_EQ(message("dense_ms", -1), "'dense_ms' is -1: want a number of 0 or more");
  EXPECT_EQ(message("kernels", 5), "'kernels' is 5: want a text");
  EXPECT_THROW(parse_measurement(json::array()), InputError);
}

TEST(MeasurementJson, ALayerNeedsTokens) {
  json request{{"config", moeref::to_json(MoEConfig{})}, {"options", json::object()}, {"tokens", 0}};
  EXPECT_THROW(parse_layer(request), InputError);
}

}  // namespace
}  // namespace moeref::bench
