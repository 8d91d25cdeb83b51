// From one golden file and a port to the case's part of the report.
#pragma once

#include <mutex>

#include "moeref/golden_file.hpp"
#include "ports/port.hpp"
#include "report/report.hpp"

namespace moeref {

/// HDF5 and ports take one thread at a time; judging takes as many as there are.
struct CaseChecker {
  Port& port;
  JudgeOptions options;
  std::mutex one_at_a_time = {};

  /// Throws InputError when the golden file is bad.
  CaseReport check(const std::filesystem::path& file);
};

/// Whether a producer text is that of moeref itself, whose recorded values must be the reference's own bits.
bool made_by_moeref(std::string_view producer);

/// The first recorded result that is not the reference's value rounded to the stored type, in words; nothing
/// when all are. Throws InputError for a call that cannot be evaluated.
std::optional<std::string> differing_bits(const Call& call, const NamedTensors& recorded);

}  // namespace moeref
