// The block that all buffers of a call lie in: what was done to it is told.
#include "tools/port_abi/call_block.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "tools/port_abi/call_tensors.hpp"

namespace moeref {
namespace {

Call small_call() {
  Call call;
  call.component = Component::mlp;
  call.config = {{"dim", 3}, {"inter_dim", 2}, {"dtype", "float32"}};
  call.options = nlohmann::json::object();
  call.tensors["inputs/x"] = Tensor(DType::float32, {5, 3});
  call.tensors["params/up_proj.weight"] = Tensor(DType::float32, {2, 3});
  return call;
}

class CallBlockTest : public ::testing::Test {
 protected:
  Call call = small_call();
  std::vector<TensorSpec> outputs{{"outputs/y", DType::float32, {5, 3}, true},
                                  {"outputs/ids", DType::int64, {5}, true},
                                  {"outputs/none", DType::bfloat16, {0, 4}, true},
                                  {"stages/h", DType::bfloat16, {5, 2}, false}};
  CallBlock block{call, outputs};
  std::vector<std::byte> memory = std::vector<std::byte>(block.size());

  const BlockTensor& tensor(const std::string& name) const {
    for (const BlockTensor& tensor : block.tensors())
      if (tensor.name == name) return tensor;
    throw std::logic_error(name);
  }
};

TEST_F(CallBlockTest, UntouchedIsSound) {
  for (const Poison poison : {Poison::nan, Poison::number}) {
    block.fill(memory.data(), call, poison);
    EXPECT_EQ(block.overwritten(memory.data()), std::nullopt);
    EXPECT_EQ(block.changed_input(memory.data(), call), std::nullopt);
  }
}

TEST_F(CallBlockTest, BuffersAreAlignedAndFarApart) {
  std::size_t end = 0;
  for (const BlockTensor& tensor : block.tensors()) {
    EXPECT_EQ(tensor.offset % 256, 0u);
    EXPECT_GE(tensor.offset, end + CallBlock::kGuard);
    end = tensor.offset + tensor.bytes;
  }
  EXPECT_GE(block.size(), end + CallBlock::kGuard);
}

TEST_F(CallBlockTest, EveryByteOutsideIsWatched) {
  for (const BlockTensor& tensor : block.tensors()) {
    for (const bool behind : {false, true}) {
      for (const std::size_t distance : {std::size_t{0}, std::size_t{200}, CallBlock::kGuard / 2 - 400}) {
        block.fill(memory.data(), call, Poison::nan);
        std::byte& byte =
            memory[behind ? tensor.offset + tensor.bytes + distance : tensor.offset - 1 - distance];
        byte ^= std::byte{1};
        const auto found = block.overwritten(memory.data());
        ASSERT_TRUE(found) << tensor.name;
        const std::string where = behind ? "1 bytes behind the end of " : "1 bytes before the start of ";
        EXPECT_TRUE(found->starts_with(where + tensor.name)) << *found;
        EXPECT_NE(found->find(std::to_string(distance) + " bytes"), std::string::npos) << *found;
      }
    }
  }
}

TEST_F(CallBlockTest, ChangedInputsAreNamed) {
  block.fill(memory.data(), call, Poison::nan);
  memory[tensor("inputs/x").offset + 4 * 7 + 1] ^= std::byte{1};
  EXPECT_EQ(block.changed_input(memory.data(), call), "inputs/x[2, 1]");
}

TEST_F(CallBlockTest, OutputsAreUnwrittenUntilWritten) {
  const auto results = [&](Poison poison) {
    block.fill(memory.data(), call, poison);
    return block.results(memory.data());
  };
  NamedTensors once = results(Poison::nan), again = results(Poison::number);
  EXPECT_EQ(once.size(), 4u);
  for (const auto& [name, tensor] : once) {
    EXPECT_EQ(unwritten(tensor, again.at(name)).count, tensor.size()) << name;
    EXPECT_EQ(unwritten(tensor, again.at(name)).first, tensor.size() > 0 ? 0 : -1) << name;
    EXPECT_EQ(unwritten(tensor, tensor).count, 0) << name;
  }
  EXPECT_TRUE(std::isnan(once.at("outputs/y")[0]) && std::isnan(once.at("stages/h")[0]));
  EXPECT_FALSE(std::isnan(again.at("outputs/y")[0]) || std::isnan(again.at("stages/h")[0]));

  // Written once is written.
  const std::int64_t all = once.at("outputs/y").size();
  once.at("outputs/y").set(0, 1.0);
  again.at("outputs/y").set(2, 1.0);
  EXPECT_EQ(unwritten(once.at("outputs/y"), again.at("outputs/y")).count, all - 2);
  EXPECT_EQ(unwritten(once.at("outputs/y"), again.at("outputs/y")).first, 1);
}

TEST_F(CallBlockTest, AnOrdinaryNaNIsNoPoison) {
  block.fill(memory.data(), call, Poison::number);
  const NamedTensors number = block.results(memory.data());
  Tensor nan(DType::float32, number.at("outputs/y").shape());
  for (std::int64_t i = 0; i < nan.size(); ++i) nan.set(i, NAN);
  EXPECT_EQ(unwritten(nan, number.at("outputs/y")).count, 0);
}

}  // namespace
}  // namespace moeref
