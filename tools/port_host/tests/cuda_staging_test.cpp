// Ports that want their tensors on a CUDA device, over a driver whose device is memory of the process
// (fake_cuda): the block goes there and comes back, every check holds for it, and an error of the device is a
// finding.
#include <nlohmann/json.hpp>

#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

class CudaStagingTest : public CommandTest {
 protected:
  /// The odd port, which says kDLCUDA, and does wrong what `way` says; the cases in the order of their
  /// names.
  json validate(const char* way, const char* fault = "") {
    const std::string cases = std::string(MOEREF_CASES) + "/";
    finished = run_moeref(
        {"validate", "--port", std::string(MOEREF_BROKEN_PORTS) + "/libbroken_odd_port.so", "--json",
         at("report.json").string(), cases + "experts__swiglu.h5", cases + "mlp__swiglu_bias.h5"},
        {std::string("MOEREF_TEST_ODDITY=") + way, "MOEREF_TEST_DEVICE=cuda",
         std::string("MOEREF_TEST_CUDA_FAULT=") + fault, "LD_LIBRARY_PATH=" MOEREF_FAKE_CUDA});
    return json::parse(text_of(at("report.json")))["cases"];
  }
  Finished finished;
};

TEST_F(CudaStagingTest, ResultsComeBack) {
  for (const json& one : validate("none")) EXPECT_EQ(one["verdict"], "PASS") << finished.out;
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
}

TEST_F(CudaStagingTest, WritesOutsideABufferAreFoundThere) {
  const json cases = validate("writes_before");
  EXPECT_EQ(cases[0]["verdict"], "PASS") << finished.out;
  EXPECT_TRUE(
      cases[1].value("finding", "").starts_with("out-of-bounds write: 1 bytes before the start of outputs/y"))
      << cases[1];
}

TEST_F(CudaStagingTest, UnwrittenOutputsAreFoundThere) {
  EXPECT_TRUE(validate("leaves_an_element")[1].value("finding", "").starts_with("unwritten output: 1 of "));
}

/// Every fresh process fails in its first call.
TEST_F(CudaStagingTest, AnErrorOfTheDeviceIsACrash) {
  for (const json& one : validate("none", "illegal_access")) {
    EXPECT_EQ(one["verdict"], "CRASHED") << finished.out;
    EXPECT_NE(one.value("finding", "").find("on the device: cuStreamSynchronize: an illegal memory access"),
              std::string::npos)
        << one;
  }
  EXPECT_EQ(finished.exit_code, 3);
}

TEST_F(CudaStagingTest, TooLittleMemoryIsSaid) {
  EXPECT_NE(validate("none", "no_memory")[0].value("finding", "").find("bytes: out of memory"),
            std::string::npos)
      << finished.out;
}

TEST_F(CudaStagingTest, ADriverWithoutADeviceIsNotSupported) {
  for (const json& one : validate("none", "no_device")) {
    EXPECT_EQ(one["verdict"], "NOT_SUPPORTED") << finished.out;
    EXPECT_EQ(one["finding"],
              "the port wants its tensors on a CUDA device: cuInit: no CUDA-capable device is detected");
  }
  EXPECT_EQ(finished.exit_code, 1);  // nothing ran
}

/// Cases of two ranks, by a port with a process for each: `devices` of the driver, which says one without.
class CudaRanksTest : public CommandTest {
 protected:
  json validate(const char* devices, const std::vector<std::string>& more = {}) {
    const std::string cases = std::string(MOEREF_CASES) + "/";
    std::vector<std::string> arguments{"validate",
                                       "--port",
                                       std::string(MOEREF_BROKEN_PORTS) + "/libbroken_odd_ranks.so",
                                       "--json",
                                       at("report.json").string(),
                                       cases + "experts__ep2_all_gather.h5",
                                       cases + "moe__ep2_all_to_all.h5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<std::string> environment{"MOEREF_TEST_DEVICE=cuda", "LD_LIBRARY_PATH=" MOEREF_FAKE_CUDA};
    if (*devices) environment.push_back(std::string("MOEREF_TEST_CUDA_DEVICES=") + devices);
    finished = run_moeref(arguments, environment);
    return json::parse(text_of(at("report.json")))["cases"];
  }
  Finished finished;
};

TEST_F(CudaRanksTest, EachRankHasADeviceOfItsOwn) {
  for (const json& one : validate("2")) EXPECT_EQ(one["verdict"], "PASS") << finished.out;
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
}

TEST_F(CudaRanksTest, WithFewerDevicesTheyAreNotSupported) {
  for (const json& one : validate("1")) {
    EXPECT_EQ(one["verdict"], "NOT_SUPPORTED") << finished.out;
    EXPECT_EQ(one["finding"], "its 2 processes want a CUDA device each, and this machine has 1");
  }
}

TEST_F(CudaRanksTest, UnlessTheyShareThem) {
  for (const json& one : validate("", {"--share-devices"})) EXPECT_EQ(one["verdict"], "PASS") << finished.out;
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
}

}  // namespace
}  // namespace moeref::testing
