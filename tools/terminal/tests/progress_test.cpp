// The progress bar's line.
#include "tools/terminal/progress.hpp"

#include <gtest/gtest.h>

namespace moeref {
namespace {

TEST(ProgressTest, ShowsShareTimeAndItem) {
  EXPECT_EQ(progress_line("validate", 6, 12, 3.6, "gate__a", 100),
            "validate [############............] 6/12  4 s  gate__a");
  EXPECT_EQ(progress_line("generate", 0, 1, 0.0, "", 100), "generate [........................] 0/1  0 s  ");
  EXPECT_EQ(progress_line("generate", 1, 1, 0.0, "x", 100),
            "generate [########################] 1/1  0 s  x");
}

TEST(ProgressTest, NeverWraps) {
  EXPECT_EQ(progress_line("validate", 6, 12, 3.0, "a_very_long_name", 20).size(), 19u);
}

TEST(ProgressTest, ALineNowAndThenWhereThereIsNoTerminal) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("validate", 2, 0.0);
    progress.start("a");
    progress.finish();
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "validate: 0 of 2 after 0 s, a\nvalidate: 1 of 2 after 0 s, a\n");
}

TEST(ProgressTest, PrintsNothingOfAShortRunWhereThereIsNoTerminal) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("validate", 2);
    progress.start("a");
    progress.finish();
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace moeref
