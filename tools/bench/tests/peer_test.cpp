#include "tools/bench/peer.hpp"

#include <gtest/gtest.h>

#include "moeref/error.hpp"

namespace moeref {
namespace {

using std::chrono::milliseconds;

const nlohmann::json kLayer = {{"tokens", 16}};

/// What is thrown when a peer of this script is asked for a layer and a pass.
std::string failure_of(const std::string& script, milliseconds limit = milliseconds(2000)) {
  try {
    Peer peer(script, limit);
    peer.prepare(kLayer);
    peer.run("forward");
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(Peer, TimesPassesOfTheLayerThatItWasTold) {
  Peer peer(
      R"(read layer; case "$layer" in *'"tokens":16'*) echo '{"ready": true}';; esac
         read pass; case "$pass" in *'"forward"'*) echo '{"ms": 1.5}';; esac
         read pass; case "$pass" in *'"forward+backward"'*) echo '{"ms": 4}';; esac)",
      milliseconds(2000));
  peer.prepare(kLayer);
  EXPECT_EQ(peer.run("forward"), 1.5);
  EXPECT_EQ(peer.run("forward+backward"), 4.0);
}

TEST(Peer, SaysWhatWentWrong) {
  EXPECT_EQ(failure_of("exit 3"), "--beside exit 3: ended itself with exit code 3");
  EXPECT_EQ(failure_of("read l; echo no; read p"),
            "--beside read l; echo no; read p: said 'no', which is no JSON object");
  EXPECT_NE(failure_of("read l; echo '{}'; read p").find(": want {\"ready\": true} in answer to a layer"),
            std::string::npos);
  EXPECT_NE(failure_of(R"(read l; echo '{"error": "too wide"}'; read p)").find(": too wide"),
            std::string::npos);
  for (const char* answer : {"{}", R"({"ms": 0})", R"({"ms": "1"})"})
    EXPECT_NE(
        failure_of(std::string(R"(read l; echo '{"ready": true}'; read p; echo ')") + answer + "'; read p")
            .find(": want {\"ms\": a number above 0} in answer to a pass"),
        std::string::npos)
        << answer;
}

TEST(Peer, IsNotWaitedForForEver) {
  EXPECT_NE(failure_of("sleep 60", milliseconds(20)).find(": no answer within 0.24 s"), std::string::npos);
}

}  // namespace
}  // namespace moeref
