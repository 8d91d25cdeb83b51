// moeref probe: what it measures of ports whose arithmetic is known, and what refutes a declaration.
#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

class ProbeTest : public CommandTest {
 protected:
  Finished probe(const std::string& port, std::vector<std::string> more) {
    std::vector<std::string> arguments{"probe",    "--port", port,     "--json", at("probe.json").string(),
                                       "--tokens", "33",     "--runs", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = run_moeref(arguments);
    if (std::filesystem::exists(at("probe.json"))) report = json::parse(text_of(at("probe.json")));
    return finished;
  }
  static std::string eager(const std::string& port) {
    return std::string(MOEREF_EAGER_PORTS) + "/libeager_" + port + ".so";
  }
  json fact(const std::string& component, const std::string& subject) const {
    for (const json& one : report["facts"])
      if (one["component"] == component && one["subject"] == subject) return one;
    ADD_FAILURE() << "no " << component << " " << subject << " in " << report.dump(2);
    return {};
  }

  json report;
};

TEST_F(ProbeTest, ProvesWhatTheExamplePortDeclares) {
  const Finished finished = probe(MOEREF_EXAMPLE_PORT, {"--terms", "16"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_EQ(fact("experts", "run to run")["standing"], "proven");
  EXPECT_EQ(fact("moe", "alone or in a batch")["standing"], "proven");
  EXPECT_EQ(fact("gate", "equal scores")["standing"], "proven");
  const json sum = fact("gate", "sum of the gate logits");
  EXPECT_EQ(sum["found"], "in float32: sequential; accumulates in float32 (24 bits)");
  EXPECT_EQ(sum["standing"], "proven");
  EXPECT_TRUE(holds(finished.out, "0 refuted")) << finished.out;
}

TEST_F(ProbeTest, TellsArithmeticsApart) {
  EXPECT_EQ(probe(eager("hidden"), {"--component", "gate", "--terms", "16"}).exit_code, 0);
  EXPECT_EQ(fact("gate", "sum of the gate logits")["found"],
            "in float32: pairwise; accumulates in float32 (24 bits)");  // without stages, from the weights
}

TEST_F(ProbeTest, RefutesABatchInvarianceThatIsNone) {
  const Finished finished = probe(eager("moody"), {"--component", "mlp", "--terms", "8"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  const json batch = fact("mlp", "alone or in a batch");
  EXPECT_EQ(batch["standing"], "refuted");
  EXPECT_TRUE(holds(batch["found"], "other bits from 33 tokens on: outputs/y")) << batch;
  EXPECT_TRUE(holds(batch["case"], "mlp T=17")) << batch;
  EXPECT_EQ(fact("mlp", "run to run")["standing"], "proven");
}

TEST_F(ProbeTest, FilesCannotBeMeasured) {
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"probe", "--port", "results:x"})), "files cannot answer"));
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"probe", "--port", "cpu", "--busy"})), "--busy needs a port"));
}

}  // namespace
}  // namespace moeref::testing
