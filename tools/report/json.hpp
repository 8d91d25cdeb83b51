// The report for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/report/report.hpp"

namespace moeref {

/// Fields: README.md of this folder. Numbers that JSON does not have are the texts "inf", "-inf" and "nan".
nlohmann::ordered_json json_report(const Report& report);

/// The same as text that ends with a line feed; bytes that are no UTF-8 are replaced.
std::string json_text(const Report& report);

}  // namespace moeref
