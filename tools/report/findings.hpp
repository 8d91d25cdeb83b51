// A case's findings in words, as the terminal and JUnit show them.
#pragma once

#include <string>
#include <vector>

#include "tools/report/report.hpp"

namespace moeref {

/// One line that says the verdict and the first divergence:
/// "FAIL: port outputs/weights[12, 3] = 0.25, reference 0.3, bound 1.2e-07, r = 4.2e+05".
std::string headline(const CaseReport& report);

/// "port outputs/weights[12, 3] = 0.25, reference 0.3, bound 1.2e-07, r = 4.2e+05; token 12: ...".
std::string describe(const TensorFinding& finding);

/// What the case is about, in one line: its note and the bugs that it catches. Empty where neither is known.
std::string about(const CaseReport& report);

/// Up to `limit` failing tensors from the first stage on, how many more there are, what the case is about,
/// and the line that repeats it.
std::vector<std::string> finding_lines(const CaseReport& report, std::size_t limit);

/// "0.431", "4.2e+05", "inf", in few characters.
std::string ratio_text(double ratio);

}  // namespace moeref
