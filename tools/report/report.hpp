// What a validation found: the model that every format of the report is made from.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moeref/verdict.hpp"
#include "tools/report/evidence.hpp"
#include "tools/report/refusals.hpp"

namespace moeref {

/// Whose results were judged.
enum class Subject : std::uint8_t {
  recorded,  ///< those in the golden file itself
  port,      ///< those that the port gave
};

std::string_view name(Subject subject);

/// The verdict on one tensor, with the tensor's shape for coordinates.
struct TensorFinding {
  Subject subject = Subject::recorded;
  TensorVerdict verdict;
  Shape shape;  ///< of the judged tensor; empty also where there is none

  /// "outputs/weights[12, 3]", or the name alone where no element is to blame.
  std::string place() const;
};

/// One golden file.
struct CaseReport {
  std::filesystem::path file;
  std::string case_name;
  Component component = Component::gate;
  std::string dtype;               ///< the config's
  std::vector<std::string> flags;  ///< the named bugs that the case catches
  std::string note;                ///< what the case is about; empty in foreign files
  Verdict verdict = Verdict::pass;
  std::string finding;  ///< why there is nothing to judge: not supported, threw, gave no results
  std::string follows;  ///< the rule under which a failing port passes (judging/diagnosis.hpp); empty: none
  std::vector<TensorFinding> tensors;  ///< in stage order, the recorded ones first
  std::vector<std::string> warnings;   ///< what passes and still looks wrong
  bool forward_only = false;           ///< the file has gradients, for which the port was not asked
  std::int64_t tokens = 0, uncertified_tokens = 0, own_certified_tokens = 0, tied_tokens = 0,
               ambiguous_tokens = 0;  ///< of the judged routing
  std::int64_t experts = 0;           ///< E, 0 for an MLP
  bool shows_scores = false;          ///< the port gave logits or scores that its choices are judged by
  double seconds = 0.0;
  std::string repeat;                ///< the command line that judges this case alone
  std::string waiver;                ///< the issue that a WAIVED case waits for
  std::optional<Evidence> evidence;  ///< of a failing case, where the report shows it

  /// "gate__sigmoid".
  std::string name() const;
  const TensorFinding* first_failure() const;
  /// Whether a port's tensors are among those judged.
  bool judges_port() const;
  /// The tensor with the largest ratio, the port's where it gave any; null where nothing was judged.
  const TensorFinding* worst() const;
};

/// Sums over the cases of a component, or over all.
struct Summary {
  std::int64_t cases = 0, tokens = 0, uncertified_tokens = 0, own_certified_tokens = 0, tied_tokens = 0,
               ambiguous_tokens = 0, warnings = 0, forward_only = 0;
  std::map<Verdict, std::int64_t> verdicts;
  const CaseReport* worst_case = nullptr;  ///< null where nothing was judged
  const TensorFinding* worst = nullptr;

  /// Tokens whose choice of experts neither the reference's bounds nor the port's own numbers settle.
  std::int64_t undecided_tokens() const { return uncertified_tokens - own_certified_tokens; }

  void add(const CaseReport& report);
  std::int64_t count(Verdict verdict) const;
};

/// Share of all tokens of a run that may take other experts than the reference within the error bounds:
/// beyond it, wrong selections could hide among them. Honest float32 ports are far below on cases with a
/// margin (VERDICTS.md).
inline constexpr double kAmbiguityCeiling = 0.01;

struct Report {
  std::string moeref;  ///< version
  std::string port;
  std::string compared;  ///< in words: what was held against what
  std::vector<CaseReport> cases;
  double seconds = 0.0;
  /// What fails the run beside the verdicts, a line each: waivers that no longer hold, cases that must pass.
  std::vector<std::string> findings;
  std::vector<std::pair<std::string, std::string>> environment;  ///< title and text of each fact, where shown

  Summary total() const;
  /// Why cases are NOT_SUPPORTED, and how many for each reason, the most frequent first.
  Refusals unsupported() const;
  /// The components that occur, in their order.
  std::map<Component, Summary> by_component() const;
  /// What fails the run although every case may have passed, in words: `findings`, too many ambiguous tokens,
  /// nothing that ran. Empty when nothing does.
  std::vector<std::string> run_findings() const;
  /// The same in one line.
  std::string run_finding() const;
  /// Who settled the choices of experts, in one line: the reference's bounds, the port's own logits or
  /// scores, or neither. Empty where no experts were chosen.
  std::string certified_shares() const;
  /// Where a port hides its logits at so many experts that the bounds settle few choices: what to show, in
  /// one line. Empty else.
  std::string hidden_stages() const;
  int exit_code() const;
};

}  // namespace moeref
