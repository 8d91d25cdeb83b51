// From one golden file and a port to the case's part of the report.
#pragma once

#include <atomic>
#include <map>
#include <mutex>

#include "moeref/golden_file.hpp"
#include "reference_cpu/verdict/reference_results.hpp"
#include "tools/judging/identity.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/report.hpp"

namespace moeref {

/// HDF5 and ports take one thread at a time; judging takes as many as there are.
struct CaseChecker {
  Port& port;
  JudgeOptions options;
  std::mutex one_at_a_time = {};
  std::atomic<int> evidence_left = 0;     ///< failing cases whose surroundings the report shows
  std::atomic<int> diagnoses_left = 200;  ///< failing cases that are judged under other rules too
  int fresh_processes_left = 8;           ///< for failing cases: is it earlier calls that they fail from?
  bool forward_only = false;  ///< gradients are not asked for; so they are not of a port without backward

  struct Checked {
    CaseReport report;
    std::map<std::string, IdentityCount> identity;  ///< what the case says about who computed (identity.hpp)
    int evaluations = 0;                            ///< how many times the reference computed the call
  };

  /// Throws InputError when the golden file is bad.
  Checked check(const std::filesystem::path& file);

 private:
  void judge_port(Checked& checked, const GoldenFile& golden, ReferenceResults& reference,
                  const PortOutcome& outcome);
  void judge_values(Checked& checked, const GoldenFile& golden, ReferenceResults& reference,
                    const PortOutcome& outcome);
  void ask_a_fresh_process(CaseReport& report, const Call& call, const NamedTensors& results);
};

/// The file's forward pass alone: without cotangents and gradients.
void keep_forward(GoldenFile& golden);

}  // namespace moeref
