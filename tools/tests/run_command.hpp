// Runs the moeref binary as a shell would, without a shell.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

namespace moeref::testing {

struct Finished {
  int exit_code = -1;  ///< 128 + the signal's number where one ended it
  std::string out, err;
};

/// With stdin from /dev/null, so that nothing is taken for a terminal. `environment` is laid over the test's
/// own.
Finished run_moeref(const std::vector<std::string>& arguments,
                    const std::vector<std::string>& environment = {});

/// Exit code 2 and exactly one line on stderr that begins with "moeref: error: "; its rest. Fails the test
/// otherwise.
std::string bad_input_line(const Finished& finished);

std::string text_of(const std::filesystem::path& path);

/// A folder of its own for the test, removed afterwards.
class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  std::filesystem::path at(const std::string& name) const { return folder_ / name; }

  /// Files and folders below, relative to the folder and sorted.
  std::vector<std::string> names() const;

  /// A copy of a case of the documented system; the folder is made where there is none.
  std::filesystem::path copy_case(const std::string& name, const std::filesystem::path& folder) const;

  std::filesystem::path folder_;
};

}  // namespace moeref::testing
