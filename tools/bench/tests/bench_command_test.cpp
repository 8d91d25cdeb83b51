// moeref bench: the CPU reference for real, and what a user can get wrong.
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

class BenchTest : public CommandTest {
 protected:
  std::string write(const std::string& name, const json& content) const {
    std::ofstream(at(name)) << content;
    return at(name).string();
  }
  std::string layer(json more = json::object()) const {
    json config{{"n_routed_experts", 4},
                {"n_shared_experts", 1},
                {"n_activated_experts", 2},
                {"n_expert_groups", 1},
                {"n_limited_groups", 1},
                {"train_gate", true},
                {"gate_bias_update_factor", 0.0},
                {"aux_loss_coeff", 0.01},
                {"score_func", "softmax"},
                {"route_scale", 1.0},
                {"dim", 16},
                {"inter_dim", 32},
                {"moe_inter_dim", 8},
                {"norm_topk_prob", true}};
    config.update(more);
    return write("my layer.json", config);
  }
};

TEST_F(BenchTest, TimesEveryPartOfAUsersLayer) {
  const Finished finished =
      run_moeref({"bench", "--port", "cpu", "--config", layer(), "--tokens", "8,24", "--repeat", "1",
                  "--json", at("bench.json").string(), "--picture", at("bench.svg").string()});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.err, "");
  const json report = json::parse(text_of(at("bench.json")));
  EXPECT_EQ(report["format"], "moeref-bench");
  EXPECT_EQ(report["port"], "cpu");
  EXPECT_TRUE(report["environment"].contains("processor"));
  std::vector<std::string> rows;
  for (const json& row : report["results"]) {
    rows.push_back(row["component"].get<std::string>() + " " + std::to_string(row["tokens"].get<int>()) +
                   " " + row["pass"].get<std::string>());
    EXPECT_GT(row["median_ms"].get<double>(), 0.0) << row;
    EXPECT_GT(row["gflops_per_core"].get<double>(), 0.0) << row;
    EXPECT_EQ(row["imbalance"].is_null(), row["component"] == "mlp") << row;
    if (!row["imbalance"].is_null()) {
      EXPECT_GE(row["imbalance"].get<double>(), 1.0) << row;
    }
    EXPECT_EQ(row["shape"], "my layer");
  }
  std::vector<std::string> wanted;
  for (const char* tokens : {"8", "24"})
    for (const char* component : {"gate", "experts", "mlp", "moe"})
      for (const char* pass : {"forward", "forward+backward"})
        wanted.push_back(std::string(component) + " " + tokens + " " + pass);
  EXPECT_EQ(rows, wanted);
  EXPECT_TRUE(text_of(at("bench.svg")).starts_with("<?xml"));
  EXPECT_EQ(names(), (std::vector<std::string>{"bench.json", "bench.svg", "my layer.json"}));
}

TEST_F(BenchTest, ShapesAreNarrowerForTheReferenceAndSaySo) {
  const Finished finished = run_moeref({"bench", "--port", "cpu", "--shape", "olmoe", "--component", "gate",
                                        "--tokens", "4", "--repeat", "1"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_TRUE(holds(finished.out, "\nolmoe/32       4  gate       forward")) << finished.out;
  EXPECT_FALSE(holds(finished.out, "experts  ")) << finished.out;
}

TEST_F(BenchTest, WhatDoesNotFitIsALineAndTheRunGoesOn) {
  // 2^40 numbers a projection.
  const std::string huge = layer({{"moe_inter_dim", 1 << 18}, {"dim", 1 << 20}, {"n_shared_experts", 0}});
  const Finished finished = run_moeref({"bench", "--port", "cpu", "--config", huge, "--shape", "olmoe",
                                        "--tokens", "2", "--repeat", "1", "--component", "experts"});
  EXPECT_EQ(finished.exit_code, 1) << finished.err;
  EXPECT_TRUE(holds(finished.out, "\nolmoe/32       2  experts    f+b")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "not measured: my layer, 2 tokens, experts: takes about ")) << finished.out;
}

TEST_F(BenchTest, BadUsageIsOneLine) {
  const auto line = [](std::vector<std::string> more) {
    more.insert(more.begin(), "bench");
    return bad_input_line(run_moeref(more));
  };
  EXPECT_TRUE(holds(line({}), "--port"));
  for (const char* port : {"results:out", "exec:./mine", "gpu"})
    EXPECT_TRUE(holds(line({"--port", port}),
                      "--port " + std::string(port) + " has no benchmark: want cpu, cuda or PATH.so"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--shape", "mixtrl"}),
                    "unknown shape 'mixtrl': want one of mixtral, qwen3_30b, dsv3, gpt_oss, olmoe"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--component", "router"}), "router"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--component", "init"}), "component 'init' has no benchmark"));
  EXPECT_TRUE(
      holds(line({"--port", "cpu", "--shape", "olmoe", "--component", "mlp"}), "none of these layers"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--tokens", "0"}), "--tokens"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--tokens", "8,many"}), "many"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--repeat", "0"}), "--repeat"));
  EXPECT_TRUE(
      holds(line({"--port", "cpu", "--config", at("none.json").string()}), "none.json: cannot be read"));
  EXPECT_TRUE(holds(line({"--port", "cpu", "--config", layer({{"dimm", 1}})}), "dimm"));
  EXPECT_TRUE(
      holds(line({"--port", "cpu", "--shape", "olmoe", "--json", at("no/such.json").string()}), "such.json"));
  const std::string ranks =
      write("ranks.json", {{"config", json::parse(text_of(layer()))}, {"call", {{"ep_size", 2}}}});
  EXPECT_TRUE(holds(line({"--port", "cpu", "--config", ranks}), "ranks.json: the call has several ranks"));
}

TEST_F(BenchTest, WithoutADeviceOneLineSaysSo) {
  // No device is visible, whether this machine has one or this build knows CUDA.
  const Finished finished = run_moeref({"bench", "--port", "cuda", "--json", at("cuda.json").string()},
                                       {"CUDA_VISIBLE_DEVICES=-1"});
  const std::string line = bad_input_line(finished);
  EXPECT_TRUE(holds(line, "--port cuda: no CUDA device here") ||
              holds(line, "port cuda: libmoeref_cuda_port.so is not beside the command"))
      << line;
  EXPECT_TRUE(names().empty());
}

}  // namespace
}  // namespace moeref::testing
