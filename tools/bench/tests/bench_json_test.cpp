// The benchmark's report for programs.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tools/bench/tests/sample_bench_report.hpp"

namespace moeref {
namespace {

using nlohmann::json;

std::set<std::string> keys(const json& object) {
  std::set<std::string> out;
  for (const auto& [key, value] : object.items()) out.insert(key);
  return out;
}

TEST(BenchJsonTest, HasTheDocumentedFields) {
  BenchReport report = testing::bench_report({testing::device_rows("qwen3_30b", 16384)});
  report.failures.push_back({"dsv3", 8192, Component::experts, "out of memory"});
  const json out = json::parse(bench_json(report));
  EXPECT_EQ(keys(out),
            (std::set<std::string>{"format", "format_version", "moeref", "commit", "port", "environment",
                                   "repeat", "seconds", "exit_code", "results", "not_measured"}));
  EXPECT_EQ(out["format"], "moeref-bench");
  EXPECT_EQ(out["format_version"], 1);
  EXPECT_EQ(out["commit"], "v1.2.3-4-gabcdef0");
  EXPECT_EQ(out["environment"], (json{{"device", "NVIDIA H200"}, {"driver", "580.1"}, {"toolkit", "13.0"}}));
  EXPECT_EQ(out["exit_code"], 1);
  EXPECT_EQ(out["not_measured"], json::parse(R"([{"shape": "dsv3", "tokens": 8192, "component": "experts",
                                                 "reason": "out of memory"}])"));
  ASSERT_EQ(out["results"].size(), 2U);
  for (const json& one : out["results"])
    EXPECT_EQ(keys(one), (std::set<std::string>{
                             "shape",       "tokens",      "component", "pass",        "median_ms",
                             "least_ms",    "most_ms",     "flops",     "tflops",      "gflops_per_core",
                             "dense_ms",    "dense_share", "floor_ms",  "floor_share", "memory_bytes",
                             "kept_bytes",  "kept_ratio",  "imbalance", "kernels",     "config",
                             "dense_moved", "sm_mhz",      "watts",     "celsius"}));
  const json& both = out["results"][1];
  EXPECT_EQ(both["component"], "moe");
  EXPECT_EQ(both["pass"], "forward+backward");
  EXPECT_DOUBLE_EQ(both["tflops"], 225.0);
  EXPECT_DOUBLE_EQ(both["dense_share"], 0.5625);
  EXPECT_DOUBLE_EQ(both["floor_share"], 0.375);
  EXPECT_DOUBLE_EQ(both["kept_ratio"], 1.02);
  EXPECT_TRUE(both["gflops_per_core"].is_null());
  // What was measured can be measured again.
  EXPECT_EQ(parse_moe_config(both["config"]).moe_inter_dim, 768);
}

TEST(BenchJsonTest, WhatIsUnknownIsNull) {
  BenchReport report = testing::bench_report({testing::processor_rows("mine", 64)});
  report.commit = "";
  const json out = json::parse(bench_json(report));
  EXPECT_TRUE(out["commit"].is_null());
  const json& one = out["results"][0];
  for (const char* field :
       {"tflops", "dense_ms", "dense_share", "floor_ms", "floor_share", "memory_bytes", "kept_bytes",
        "kept_ratio", "kernels", "dense_moved", "sm_mhz", "watts", "celsius"})
    EXPECT_TRUE(one[field].is_null()) << field;
  EXPECT_DOUBLE_EQ(one["gflops_per_core"], 150000.0);
}

TEST(BenchJsonTest, BytesThatAreNoUtf8AreReplaced) {
  BenchReport report = testing::bench_report({testing::processor_rows("\xff", 64)});
  EXPECT_TRUE(json::accept(bench_json(report)));
}

}  // namespace
}  // namespace moeref
