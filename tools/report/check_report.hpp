// What a run of the property suite found: the model of its table and its JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moeref/runner.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

/// One property.
struct PropertyResult {
  RunReport run;
  Verdict port = Verdict::pass;  ///< CRASHED or HUNG where the port did instead of answering
  std::string saved;             ///< the golden file of the smallest failing case; empty = none

  /// "PASS", "FAIL", "FLAKY", "VACUOUS", "NOT_SUPPORTED", "CRASHED", "HUNG".
  std::string_view status() const;
  bool failed() const;
};

struct CheckReport {
  std::string moeref, port,
      shell_port;  ///< version, the port's name, and the port as a word of a command line
  std::string scale = "small";
  std::uint64_t seed = 0;
  int cases = 0;
  std::vector<PropertyResult> properties;
  std::vector<std::string> unmet;  ///< kinds of input that the run should have met
  double seconds = 0.0;

  int exit_code() const;
};

/// The command line that shows a failure again; empty where nothing failed.
std::string repeat_command(const CheckReport& report, const PropertyResult& result);

/// The lines of one property: status, counts, cases that passed per minute, and what failed.
std::string property_text(const CheckReport& report, const PropertyResult& result, bool verbose,
                          bool colours);
/// The last lines of a run: what was not supported and why, what was not met, how it ended.
std::string summary_text(const CheckReport& report, bool colours);

std::string json_text(const CheckReport& report);

}  // namespace moeref
