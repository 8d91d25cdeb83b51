// One case of the HTML report.
#pragma once

#include <string>
#include <string_view>

#include "tools/report/report.hpp"

namespace moeref {

/// The verdict as a coloured label.
std::string html_verdict(Verdict verdict);

/// A link where the text is an https or http address, else the text.
std::string html_link(std::string_view text);

/// A list item that opens: verdict, name and worst r, and inside what was found.
std::string html_case(const CaseReport& report, bool open);

}  // namespace moeref
