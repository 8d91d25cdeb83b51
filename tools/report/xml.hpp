// Text in XML: of the JUnit report, the HTML page and SVG pictures.
#pragma once

#include <string>
#include <string_view>

namespace moeref {

/// Text as XML character data or attribute value: the five entities, line feeds kept as references, and a
/// question mark for all that XML 1.0 cannot hold (control characters, bytes that are no UTF-8, surrogates,
/// U+FFFE and U+FFFF).
std::string xml_escaped(std::string_view text);

}  // namespace moeref
