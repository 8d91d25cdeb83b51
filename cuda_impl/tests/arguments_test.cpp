// Impossible arguments are exceptions that name the field; these need no device.
#include <gtest/gtest.h>

#include "moeref/cuda/error.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda::test {
namespace {

void expect_names(ExpertsConfig config, const char* field) {
  try {
    saved_bytes(config);
    ADD_FAILURE() << "no error for " << field;
  } catch (const ArgumentError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
  }
}

TEST(ExpertsArguments, ErrorsNameTheField) {
  expect_names({-1, 64, 64, 4, 2}, "tokens");
  expect_names({1 << 30, 64, 64, 4, 2}, "tokens");
  expect_names({8, 60, 64, 4, 2}, "dim");
  expect_names({8, 64, 0, 4, 2}, "inter_dim");
  expect_names({8, 64, 4, 4, 2}, "inter_dim");
  expect_names({8, 64, 64, 1025, 2}, "experts");
  expect_names({8, 64, 64, 4, 0}, "slots");
}

TEST(ExpertsArguments, SavedIsHAndMetadata) {
  const ExpertsConfig config{8192, 2048, 768, 128, 8};
  const double h = 2.0 * 8192 * 8 * 2 * 768, x = 2.0 * 8192 * 2048;
  EXPECT_LE(x + static_cast<double>(saved_bytes(config)), 1.05 * (x + h));
}

}  // namespace
}  // namespace moeref::cuda::test
