// Ports: where the results that `moeref validate` judges come from. A new kind is one entry of the table in
// port.cpp.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "moeref/implementation.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

/// What a port made of one call.
struct PortOutcome {
  NamedTensors results;             ///< to be judged, where the verdict is PASS
  Verdict verdict = Verdict::pass;  ///< NOT_SUPPORTED, FAIL, HUNG or CRASHED where there is nothing to judge
  std::string finding;              ///< why not, in one line
};

class Port {
 public:
  virtual ~Port() = default;

  /// As it was given on the command line: "cpu", "results:out".
  virtual std::string name() const = 0;

  /// The reference itself: comparing it with itself would prove nothing, so what the files record is judged
  /// alone.
  virtual bool is_reference() const { return false; }

  /// Looks at whatever the port needs for these golden files before any work starts. Throws InputError.
  virtual void prepare(std::span<const std::filesystem::path> golden_files) { (void)golden_files; }

  /// Called from one thread at a time. What goes wrong in the port is a verdict; throws InputError only for
  /// what prepare() would have thrown for.
  virtual PortOutcome run(const std::filesystem::path& golden_file, const Call& call) = 0;
};

/// An implementation in this process; what it throws is a finding.
std::unique_ptr<Port> make_port(std::unique_ptr<Implementation> implementation, bool is_reference);

/// Files that a port wrote: FOLDER/<name of the golden file>, with datasets named as in the golden file.
std::unique_ptr<Port> make_results_port(const std::filesystem::path& folder);

/// One way to name a port on the command line.
struct PortKind {
  std::string_view syntax;   ///< "results:DIR"
  std::string_view summary;  ///< one line for listings
  std::string_view prefix;   ///< what the text starts with; without ':' at its end it is the whole text
  std::unique_ptr<Port> (*open)(std::string_view argument);  ///< what follows the prefix
};

std::span<const PortKind> port_kinds();

/// Throws InputError for a text of no kind, listing the kinds, and for a port that cannot be opened.
std::unique_ptr<Port> open_port(std::string_view text);

}  // namespace moeref
