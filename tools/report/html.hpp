// The report as one HTML page: no other resource is loaded, and without a script it still shows everything.
#pragma once

#include <string>

#include "tools/report/report.hpp"

namespace moeref {

/// A whole page. Names and findings are shown as text, with all markup in them escaped.
std::string html_text(const Report& report);

}  // namespace moeref
