// Enough of an XML parser to know that a report is well-formed, and what is in it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moeref::testing {

struct XmlElement {
  std::string name;
  std::map<std::string, std::string> attributes;  ///< with entities resolved
  std::string text;                               ///< its own character data
  std::vector<XmlElement> children;

  /// All elements of that name below this one, in document order.
  std::vector<const XmlElement*> all(std::string_view wanted) const;
};

/// The root element. Throws std::runtime_error saying where the text is not well-formed.
XmlElement parse_xml(std::string_view text);

}  // namespace moeref::testing
