// Two JSON reports of `moeref validate`, before and after: what got better and what got worse.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moeref {

/// One case whose verdict differs; an empty verdict: the report does not have the case.
struct VerdictChange {
  std::string name;  ///< "gate__sigmoid"
  std::string before, after;
  std::string finding;  ///< of the worse one, in words
};

struct ReportComparison {
  std::string before, after;  ///< the ports
  /// Worse: judged and passed before, no longer now. Other: in one report alone, or between other verdicts.
  std::vector<VerdictChange> worse, better, other;
  std::size_t same = 0;
};

/// Throws InputError naming the file that cannot be read or is no report.
ReportComparison compare_reports(const std::filesystem::path& before, const std::filesystem::path& after);

/// As text for a terminal, and as one HTML page.
std::string comparison_text(const ReportComparison& comparison, bool colours);
std::string comparison_html(const ReportComparison& comparison);

}  // namespace moeref
