// The report for people: component x verdict, then the failures.
#pragma once

#include <string>

#include "tools/report/report.hpp"

namespace moeref {

struct TableOptions {
  bool colours = false;
  bool quiet = false;  ///< the failures and the last line alone
};

/// Text of several lines for a terminal.
std::string table_text(const Report& report, const TableOptions& options);

}  // namespace moeref
