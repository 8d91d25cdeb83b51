// Ports: where the results that `moeref validate` judges come from. A new kind is one entry of the table in
// port.cpp.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"
#include "moeref/verdict.hpp"
#include "tools/ports/capabilities.hpp"

namespace moeref {

/// What a port made of one call.
struct PortOutcome {
  NamedTensors results = {};  ///< to be judged; empty where there is nothing to judge
  Verdict verdict =
      Verdict::pass;         ///< NOT_SUPPORTED, FAIL, HUNG or CRASHED by what happened, not by the values
  std::string finding = {};  ///< why that, in one line
  std::vector<std::string> warnings = {};
  bool refused = false;     ///< it answered that the call is an error, in `finding`
  bool lost_ranks = false;  ///< an exchange with other ranks of the call failed, which may be why
  NamedTensors repeated =
      {};  ///< of the same call made again, where its bits differ and may: to be judged too
};

class Port {
 public:
  virtual ~Port() = default;

  /// As it was given on the command line: "cpu", "results:out".
  virtual std::string name() const = 0;

  /// The reference itself: comparing it with itself would prove nothing, so what the files record is judged
  /// alone.
  virtual bool is_reference() const { return false; }

  /// What the port says of itself, null where it is not asked (files).
  virtual const Capabilities* capabilities() const { return nullptr; }

  /// Nothing if it claims such calls, as far as it says so beforehand; else what is missing.
  virtual std::optional<std::string> unsupported(const Call& call) const {
    const Capabilities* has = capabilities();
    return has ? has->lack(call) : std::nullopt;
  }

  /// Checks that the port has all it needs for these golden files, before any work starts. Throws InputError.
  virtual void prepare(std::span<const std::filesystem::path> golden_files) { (void)golden_files; }

  /// Called from one thread at a time. What goes wrong in the port is a verdict; throws InputError only for
  /// what prepare() would have thrown for.
  virtual PortOutcome run(const std::filesystem::path& golden_file, const Call& call) = 0;

  /// The results of the call as the first one that a fresh process of the port makes; nothing where there is
  /// no such process, or it gives none.
  virtual std::optional<NamedTensors> run_fresh(const Call& call) {
    (void)call;
    return std::nullopt;
  }
};

/// How a port that runs in a process of its own is treated.
struct PortSettings {
  std::chrono::milliseconds limit = std::chrono::seconds(60);  ///< for one call; then the port hangs
  std::filesystem::path host = "/proc/self/exe";  ///< the program with the command port-host: moeref itself
  /// For calls with so many ranks at most a port's max_processes counts; with 1 it plays all ranks itself.
  std::int64_t processes = 16;
  /// Whether processes of one call may work on one CUDA device where there are fewer devices.
  bool share_devices = false;
};

/// From the options --timeout, --processes and --share-devices. Throws InputError for a time that is no
/// limit.
PortSettings port_settings(double timeout_seconds, std::int64_t processes, bool share_devices);

/// An implementation in this process; what it throws is a finding.
std::unique_ptr<Port> make_port(std::unique_ptr<Implementation> implementation, bool is_reference);

/// Files that a port wrote: FOLDER/<name of the golden file>, with datasets named as in the golden file.
std::unique_ptr<Port> make_results_port(const std::filesystem::path& folder);

/// A shared library with the port interface (moeref/port.h), in a process of its own; `name` is the port's on
/// the command line.
std::unique_ptr<Port> make_library_port(const std::filesystem::path& library, const PortSettings& settings,
                                        std::string_view name);

/// A program that answers requests on its stdin (tools/README.md).
std::unique_ptr<Port> make_exec_port(const std::string& command, const PortSettings& settings);

/// What a port did instead of giving results, for those who take it as an implementation.
class PortFailure : public std::runtime_error {
 public:
  PortFailure(Verdict verdict, const std::string& finding) : std::runtime_error(finding), verdict(verdict) {}
  Verdict verdict;
};

/// A port as an implementation. run() throws InputError where the port refuses the call, PortFailure for
/// every other outcome that is not PASS. Not for results:DIR.
std::unique_ptr<Implementation> as_implementation(std::shared_ptr<Port> port);

/// One way to name a port on the command line.
struct PortKind {
  std::string_view syntax;   ///< "results:DIR"
  std::string_view summary;  ///< one line for listings
  /// What the text starts with; without ':' at its end it is the whole text; empty for a path.
  std::string_view prefix;
  std::unique_ptr<Port> (*open)(std::string_view argument, const PortSettings&);  ///< what follows the prefix
};

std::span<const PortKind> port_kinds();

/// Throws InputError for a text of no kind, listing the kinds, and for a port that cannot be opened.
std::unique_ptr<Port> open_port(std::string_view text, const PortSettings& settings = {});

}  // namespace moeref
