// The report for CI systems: JUnit XML, one testsuite a component, one testcase a golden file.
#pragma once

#include <string>
#include <string_view>

#include "tools/report/report.hpp"

namespace moeref {

/// FAIL is a failure, CRASHED and HUNG are errors, NOT_SUPPORTED and WAIVED are skipped. Well-formed UTF-8
/// whatever the names and findings hold.
std::string junit_text(const Report& report);

/// Text as XML character data or attribute value: the five entities, line feeds kept as references, and a
/// question mark for whatever XML 1.0 cannot hold (control characters, bytes that are no UTF-8, surrogates,
/// U+FFFE and U+FFFF).
std::string xml_escaped(std::string_view text);

}  // namespace moeref
