// What the cases of a report have in common: why they did not pass, and verdicts by component and dtype.
#pragma once

#include <string>

#include "tools/report/report.hpp"

namespace moeref {

/// Why a case did not pass, without its numbers: the first tensor that fails, or the finding. Empty where it
/// passed.
std::string html_reason(const CaseReport& report);

/// A row for each reason with the cases that have it, the most frequent first; empty where every case passed.
std::string html_reasons(const Report& report);

/// Components by dtypes: how many of the judged cases passed. Empty where there is one dtype.
std::string html_dtype_matrix(const Report& report);

}  // namespace moeref
