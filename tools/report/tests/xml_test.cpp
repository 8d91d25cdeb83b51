// Any text in XML.
#include "tools/report/xml.hpp"

#include <gtest/gtest.h>

namespace moeref {
namespace {

TEST(XmlTest, KeepsUtf8AndNothingElse) {
  EXPECT_EQ(xml_escaped("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(xml_escaped("\xc0\x80"), "??");     // overlong
  EXPECT_EQ(xml_escaped("\xed\xa0\x80"), "?");  // a surrogate
  EXPECT_EQ(xml_escaped("\xef\xbf\xbf"), "?");  // U+FFFF
  EXPECT_EQ(xml_escaped("\xe2\x82"), "??");     // cut short
  EXPECT_EQ(xml_escaped(std::string("a\0b", 3)), "a?b");
  EXPECT_EQ(xml_escaped("<a b='c'>\n"), "&lt;a b=&apos;c&apos;&gt;&#10;");
}

}  // namespace
}  // namespace moeref
