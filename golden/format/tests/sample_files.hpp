// A small valid golden file and a folder to put it in, for the tests of reader and writer.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "moeref/golden_file.hpp"

namespace moeref::testing {

/// A folder of its own for the test, removed afterwards.
class GoldenFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("moeref_" + std::string(test->name()) + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path at(const std::string& name) const { return folder_ / name; }

  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      out.push_back(entry.path().filename());
    return out;
  }

  std::filesystem::path folder_;
};

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Values that are exact in every floating dtype.
inline Tensor small_numbers(DType dtype, const Shape& shape, int seed = 1) {
  Tensor tensor(dtype, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    tensor.set(i, is_floating(dtype) ? static_cast<double>((i * 37 + seed * 11) % 31 - 15) / 8.0
                                     : static_cast<double>((i + seed) % 2));
  return tensor;
}

/// An mlp call of 3 tokens with backward, and a stage; results in float64 as the reference gives them.
inline GoldenFile small_mlp(DType dtype = DType::bfloat16) {
  GoldenFile file;
  file.case_name = "small";
  file.producer = "moeref test";
  file.flags = {"silu_on_up", "no_bias"};
  file.recipe = R"({"component":"mlp"})";
  file.call.component = Component::mlp;
  file.call.config = {{"dim", 4}, {"inter_dim", 2}, {"dtype", name(dtype)}};
  file.call.options = nlohmann::json::object();
  file.call.backward = true;
  file.call.tensors = {{"inputs/x", small_numbers(dtype, {3, 4}, 1)},
                       {"params/gate_proj.weight", small_numbers(dtype, {2, 4}, 2)},
                       {"params/up_proj.weight", small_numbers(dtype, {2, 4}, 3)},
                       {"params/down_proj.weight", small_numbers(dtype, {4, 2}, 4)},
                       {"cotangents/y", small_numbers(dtype, {3, 4}, 5)}};
  const auto result = [&](const std::string& name, const Shape& shape) {
    file.results[name] = Tensor(DType::float64, shape);
    file.result_dtypes[name] = dtype;
    file.bounds[name] = Tensor(DType::float32, shape);
    for (std::int64_t i = 0; i < file.results[name].size(); ++i) {
      file.results[name].set(i, 0.1 * static_cast<double>(i + 1));
      file.bounds[name].set(i, 1e-9 * static_cast<double>(i));
    }
  };
  result("outputs/y", {3, 4});
  result("grads/x", {3, 4});
  result("grads/gate_proj.weight", {2, 4});
  result("grads/up_proj.weight", {2, 4});
  result("grads/down_proj.weight", {4, 2});
  result("stages/activation", {3, 2});
  return file;
}

}  // namespace moeref::testing
