// What a run of the mutants found: the model of its matrix, JSON, page and score.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "property_tests/mutants/trial.hpp"

namespace moeref {

enum class MutantStatus : std::uint8_t {
  killed,
  survived,
  equivalent,       ///< survived, and its row proves that no call tells it from a sound one
  not_shown,        ///< not run: it shows in no port of the dtype asked for
  not_expressible,  ///< not run: the interface has no call for it
};

/// "KILLED", "SURVIVED", "EQUIVALENT", "NOT_SHOWN", "NOT_EXPRESSIBLE".
std::string_view name(MutantStatus status);

struct MutantScore {
  int rows = 0, run = 0, killed = 0, equivalent = 0;
  int by_goldens = 0, by_properties = 0;
  std::int64_t failing = 0,
               rightly_named = 0;  ///< golden verdicts, and those that name the right tensor first

  double right_share() const;  ///< of the failing verdicts; 1 where there is none
};

struct MutantReport {
  std::string moeref;
  std::string dtype;  ///< the mutants were ports of this dtype alone; empty = of every dtype
  int files = 0;      ///< golden files judged
  int cases = 0;      ///< per property, at most
  std::uint64_t seed = 0;
  std::vector<Trial> trials;          ///< in the order of the tables, with those that were not run
  std::set<std::string> flags;        ///< bugs that the golden files name
  bool whole = false;                 ///< every mutant was asked for, so that what kills nothing is a finding
  std::vector<std::string> findings;  ///< what was wrong with the run itself
  double seconds = 0.0;

  MutantStatus status(const Trial& trial) const;
  MutantScore score() const;
  /// Properties that made no mutant fail, but those that need a declaration that no mutant makes.
  std::vector<std::string_view> idle_properties() const;
  /// Bugs that golden files name and no mutant is of.
  std::vector<std::string> flags_without_mutant() const;
  /// Mutants of a bug that golden files name, none of which killed them.
  std::vector<const Trial*> missed_by_flagged_files() const;
  int exit_code() const;
};

/// "outputs/y 98 %": the tensor that verdicts named first most often, and the share of those that name a
/// right one; empty where no golden file failed.
std::string first_stage(const Trial& trial);

/// The names of the properties that failed, with one space between.
std::string killing_properties(const Trial& trial);

/// The matrix, what was missed, and the last line "killed N of M, E proven equivalent".
std::string mutants_text(const MutantReport& report, bool colours);

std::string mutants_json(const MutantReport& report);

/// One HTML page without anything to load.
std::string mutants_html(const MutantReport& report);

/// The row of the table in README.md, without times.
std::string mutants_markdown(const MutantReport& report);

}  // namespace moeref
