// Aligned columns, colours and words for a shell.
#include "tools/terminal/columns.hpp"

#include <gtest/gtest.h>

namespace moeref {
namespace {

TEST(ColumnsTest, AlignsLeftAndRight) {
  EXPECT_EQ(columns({{{"case"}, {"n", Colour::plain, true}}, {{"a"}, {"100", Colour::plain, true}}}, false),
            "case    n\na     100\n");
}

TEST(ColumnsTest, LeavesNothingBehindTheLastColumn) {
  EXPECT_EQ(columns({{{"a"}, {"long"}}, {{"b"}, {""}}}, false), "a  long\nb\n");
}

TEST(ColumnsTest, ColoursDoNotMoveColumns) {
  EXPECT_EQ(columns({{{"x", Colour::red}, {"y"}}, {{"abc"}, {"z"}}}, true),
            "\033[31mx\033[0m    y\nabc  z\n");
  EXPECT_EQ(columns({{{"x", Colour::red}, {"y"}}}, false), "x  y\n");
}

TEST(TerminalTest, WordsForAShell) {
  EXPECT_EQ(shell_word("golden/gate__a.h5"), "golden/gate__a.h5");
  EXPECT_EQ(shell_word("my files/it's.h5"), "'my files/it'\\''s.h5'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(TerminalTest, OneLine) { EXPECT_EQ(one_line("a\nb\x1b[31m"), "a?b?[31m"); }

}  // namespace
}  // namespace moeref
