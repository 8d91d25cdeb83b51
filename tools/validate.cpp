// moeref validate: judges golden files and the results of a port, and reports.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "case_check.hpp"
#include "commands.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/parallel_for.hpp"
#include "progress.hpp"
#include "report/json.hpp"
#include "report/junit.hpp"
#include "report/report_file.hpp"
#include "report/table.hpp"
#include "terminal.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

/// Files up to this size are judged one a core; larger ones one after the other, each on all cores.
constexpr std::uint64_t kLargeFile = 8u << 20;

struct ValidateOptions {
  std::string port;
  std::vector<fs::path> paths;
  fs::path json, junit;
  bool quiet = false;
};

/// What can be known of a file without reading its data, so that bad input is told before any work.
void check_header(const fs::path& file) {
  const GoldenHeader header = read_golden_header(file);
  try {
    if (header.component == Component::mlp)
      parse_mlp_config(header.config);
    else
      parse_moe_config(header.config);
    parse_call_options(header.options);
  } catch (const InputError& error) {
    throw InputError(file.string() + ": " + error.what());
  }
}

std::vector<CaseReport> check_all(CaseChecker& checker, const std::vector<fs::path>& files) {
  std::vector<CaseReport> reports(files.size());
  std::vector<std::size_t> small, large;
  for (std::size_t i = 0; i < files.size(); ++i)
    (fs::file_size(files[i]) > kLargeFile ? large : small).push_back(i);
  Progress progress("validate", files.size());
  const auto check = [&](std::size_t i) {
    progress.start(files[i].stem().string());
    reports[i] = checker.check(files[i]);
    progress.finish();
  };
  parallel_for(static_cast<std::int64_t>(small.size()),
               [&](std::int64_t i) { check(small[static_cast<std::size_t>(i)]); });
  for (const std::size_t i : large) check(i);
  return reports;
}

int validate(const ValidateOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const std::unique_ptr<Port> port = open_port(options.port);
  const std::vector<fs::path> files = list_golden_files(options.paths);
  for (const fs::path& file : files) check_header(file);
  port->prepare(files);
  ReportFile json(options.json), junit(options.junit);

  CaseChecker checker{*port, {}};
  Report report;
  report.moeref = MOEREF_VERSION;
  report.port = port->name();
  report.compared = port->is_reference()
                        ? "the results recorded in the files, judged against the reference"
                        : "recorded results and the port's, each judged against the reference";
  report.cases = check_all(checker, files);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();

  if (json.wanted()) json.write(json_text(report));
  if (junit.wanted()) junit.write(junit_text(report));
  fmt::print("{}", table_text(report, {shows_colours(stdout), options.quiet}));
  return report.exit_code();
}

std::string port_help() {
  std::string help = "Whose results to judge:";
  for (const PortKind& kind : port_kinds()) help += fmt::format("\n  {}: {}", kind.syntax, kind.summary);
  return help;
}

}  // namespace

Command validate_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("validate", "Judge golden files, and a port's results on them");
  const auto options = std::make_shared<ValidateOptions>();
  app->add_option("--port", options->port, port_help())->required()->type_name("PORT");
  app->add_option("FILE_OR_DIR", options->paths, "Golden files, or folders that are searched for *.h5")
      ->required()
      ->type_name("");
  app->add_option("--json", options->json, "Write the whole report to this file, for programs")
      ->type_name("FILE");
  app->add_option("--junit", options->junit, "Write a JUnit report to this file, for CI systems")
      ->type_name("FILE");
  app->add_flag("--quiet", options->quiet, "Show the failures and the last line alone");
  return {app, [options] { return validate(*options); }};
}

}  // namespace moeref
