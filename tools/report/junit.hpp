// The report for CI systems: JUnit XML, one testsuite per component, one testcase per golden file.
#pragma once

#include <string>

#include "tools/report/report.hpp"

namespace moeref {

/// FAIL is a failure, CRASHED and HUNG are errors, NOT_SUPPORTED and WAIVED are skipped. The text is
/// well-formed UTF-8 even where names and findings are not.
std::string junit_text(const Report& report);

}  // namespace moeref
