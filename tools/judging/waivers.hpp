// Known failures that do not fail the run, as long as an issue tracks them (--waivers FILE).
//
// {"waivers": [{"case": "gate__sqrtsoftplus*", "tensor": "grads/*",
//               "issue": "https://...", "expires": "2027-01-31", "note": "..."}]}
//
// `case` is a case's name or a pattern with * and ?, `tensor` (optional) a failing tensor or a pattern:
// without it the whole case is waived. A waiver holds through its day of expiry (UTC). It never covers
// CRASHED or HUNG.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tools/report/report.hpp"

namespace moeref {

struct Waiver {
  std::string case_pattern;
  std::string tensor_pattern;  ///< empty = every tensor
  std::string issue;           ///< a link
  std::string expires;         ///< "2027-01-31"; empty = never
};

class Waivers {
 public:
  /// An empty path = none. Throws InputError naming the file, and the entry where one is wrong: no JSON, an
  /// unknown field, a missing `case`, a date that is none.
  explicit Waivers(const std::filesystem::path& path = {});

  /// FAIL becomes WAIVED where waivers in force cover everything that failed. A waiver that has expired, has
  /// no issue link or covered nothing is a finding that fails the run and names file and entry. `today` as
  /// "2026-11-23".
  void apply(Report& report, std::string_view today) const;

  const std::vector<Waiver>& entries() const { return entries_; }

 private:
  /// Why the entry waives nothing, in words; empty where it is in force.
  std::string objection(const Waiver& waiver, std::string_view today) const;

  std::filesystem::path path_;
  std::vector<Waiver> entries_;
};

/// Today in UTC as "2026-11-23".
std::string today_utc();

}  // namespace moeref
